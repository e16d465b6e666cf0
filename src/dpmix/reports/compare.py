"""Runs side by side: how their settings and data differ, and what all of them together cost.

Guarantee: only public facts are compared: a published hash of the images would let someone who has
all but one test for that one. Data count as the same if everything public about them is the same.
The epsilon of all together does not depend on it: it is a composition, which holds for a person
with one image in each run's data (`tests/reports/test_compare.py`).
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpmix.privacy.repeats import epsilon_of_copies_together
from dpmix.reports.facts import RunFacts
from dpmix.reports.statement import Statement

Differences = list[tuple[str, list[str]]]
"""What differs, with each run's value as text."""

_NOT_READ = "not read"


@dataclass(frozen=True)
class Comparison:
    """Several runs, and what differs between them.

    Attributes:
        together: (epsilon, delta) of publishing all of the runs, where it is known.
        why_not: why it is not known, naming the run.
        repeated: where images are repeated: how often the most frequent one occurs, and the
            epsilon together of the person in it.
    """

    names: tuple[str, ...]
    runs: tuple[RunFacts, ...]
    settings: Differences
    data: Differences
    together: tuple[float, float] | None
    why_not: str | None
    repeated: tuple[int, float] | None


def compare(names: Sequence[str], runs: Sequence[RunFacts], free: Collection[str]) -> Comparison:
    """Compare runs; `free` settings, which say where or how something is done, are left out."""
    numbered = tuple(
        f"{name} ({place})" if list(names).count(name) > 1 else name
        for place, name in enumerate(names, 1)
    )
    data, released = _data(runs), _released(runs)
    why_not = _no_sum(numbered, runs, released)
    together = repeated = None
    if why_not is None:
        together = _together(released, 1)
        copies = max((one.repeats.most for one in released if one.repeats), default=1)
        repeated = (copies, _together(released, copies)[0]) if copies > 1 else None
    settings = _settings(runs, free)
    return Comparison(numbered, tuple(runs), settings, data, together, why_not, repeated)


def _settings(runs: Sequence[RunFacts], free: Collection[str]) -> Differences:
    # Pretraining on a pool does not depend on the method.
    unread = [run.views.unread - {"pool_role"} for run in runs]
    compared = [
        (name, [_NOT_READ if name in of_method else run.settings[section].get(name)
                for run, of_method in zip(runs, unread, strict=True)])
        for section, name in dict.fromkeys(
            (section, name) for run in runs for section, part in run.settings.items()
            if section != "input" for name in part
        )
        if name not in free
    ]  # fmt: skip
    return _differing([("image shape", [_shape(run) for run in runs]), *compared])


def _shape(run: RunFacts) -> tuple[int, ...]:
    return tuple(run.settings["input"]["image_shape"])


def _data(runs: Sequence[RunFacts]) -> Differences:
    rows: list[tuple[str, list[Any]]] = [
        ("data set", _data_names(runs)),
        ("classes", [", ".join(run.settings["input"]["class_names"]) for run in runs]),
        ("unit of privacy", [run.statement.unit for run in runs]),
        ("training images or persons N", [run.statement.examples for run in runs]),
        ("judged on", [f"{run.metrics.images} {run.metrics.judged_on} images" for run in runs]),
    ]
    # Images that differ can be equal once they are grey, or small.
    if len({_shape(run) for run in runs}) == 1:
        rows.append(("most frequent image", [_times(run.statement) for run in runs]))
    # These tell apart data that look the same otherwise.
    per_class = [[*run.metrics.class_images.values()] for run in runs]
    return _differing(rows) or _differing([("images by class", per_class)])


def _times(statement: Statement) -> str:
    # It is counted only where there is an epsilon to state.
    if not statement.private:
        return _NOT_READ
    return f"occurs {statement.repeats.most} times" if statement.repeats else "occurs once"


def _data_names(runs: Sequence[RunFacts]) -> list[str]:
    """Public names; different folders, whose own names are not published, get numbers."""
    given = [run.settings["data"]["data"] for run in runs]
    distinct = list(dict.fromkeys(Path(one).name for one in given))
    return [
        run.data_name
        if len(distinct) == 1 or run.data_name == one
        else f"{run.data_name} ({distinct.index(Path(one).name) + 1})"
        for run, one in zip(runs, given, strict=True)
    ]


def _differing(rows: Iterable[tuple[str, list[Any]]]) -> Differences:
    """The rows with unlike values, as text; a setting that a method does not read is alike."""
    return [
        (name, ["not given" if value is None else str(value) for value in values])
        for name, values in rows
        if len({str(value) for value in values if value != _NOT_READ}) > 1
    ]


def _released(runs: Sequence[RunFacts]) -> list[Statement]:
    """The statements of what was released, each release once.

    Earlier and later steps of one run count as two releases, which is an upper bound.
    """
    stated = [run.statement for run in runs]
    return [*{(one.run_id, one.weights_sha256): one for one in stated}.values()]


def _no_sum(
    names: Sequence[str], runs: Sequence[RunFacts], released: list[Statement]
) -> str | None:
    """The runs whose epsilon does not add up with others', and why."""
    faults = [
        f"'{name}' {fault}"
        for name, run in zip(names, runs, strict=True)
        if (fault := _fault(run.statement))
    ]
    if faults:
        return f"{'; '.join(faults)}: leave such runs out"
    if len({one.unit for one in released}) > 1:
        return "some protect an image and some a person"
    return "all are one release: one run, copied" if len(released) < 2 else None


def _fault(statement: Statement) -> str | None:
    if not statement.private:
        return "was trained without privacy"
    if statement.seeded:
        return "is seeded, and runs of one seed share their noise, which does not add up"
    selected = statement.expected_runs is not None
    return "is the best of a private selection, whose cost is no sum" if selected else None


def _together(released: list[Statement], copies: int) -> tuple[float, float]:
    """(epsilon, delta) of all releases, for the person in `copies` equal images."""
    delta = max(one.delta for one in released)
    # All planned steps: a run may have been stopped because of what it showed.
    trainings = tuple(
        (one.sampling_rate, one.noise_multiplier, one.planned_steps) for one in released
    )
    # A release that several runs count is counted with each: still an upper bound.
    spent = tuple(sigma for one in released for sigma in one.spent_before)
    return epsilon_of_copies_together(trainings, copies, delta, spent), delta
