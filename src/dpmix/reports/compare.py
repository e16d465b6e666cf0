"""Runs side by side: how their settings and data differ, and what all of them together cost.

Guarantee: only public files are read. No hash of the images is in any: it would let someone who has
all images but one test for that one. So data are the same here if all that is public of them is,
and that is what they are before a run resizes them or changes their channels. The epsilon of all
together does not rest on it: it is a composition, which holds for a person with one image in each
run's data, whatever the others are (`tests/test_comparison.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_together
from dpmix.privacy.repeats import epsilon_of_copies_together
from dpmix.reports.page import (
    MOST_SHOWN,
    ClassBar,
    PlotArea,
    RunFacts,
    audited_facts,
    claimed_epsilon,
    class_bars,
    epsilon_curve,
    render,
)
from dpmix.reports.statement import Statement, shown_epsilon
from dpmix.runs.folder import RunFolder
from dpmix.runs.settings import LEAVES, places

# `compare.html`: several runs on one page.


Row_compare_page = tuple[str, list[str]]


def compare_page(
    names: Sequence[str],
    runs: Sequence[RunFacts],
    *,
    settings: list[Row_compare_page],
    data: list[Row_compare_page],
    together: tuple[float, float] | None,
    why_not: str | None,
    repeated: tuple[int, float] | None,
) -> str:
    """Render the page.

    Args:
        names: of the runs.
        runs: what their public files say.
        settings: those that differ, with each run's value.
        data: what differs of the data.
        together: (epsilon, delta) for whoever sees all of the runs, where it is known.
        why_not: why it is not known, with the run's name.
        repeated: how often the most frequent image occurs, and that epsilon of the person in it.
    """
    curves = [epsilon_curve(run.statement) for run in runs]
    highest = [curve.whole[-1][1] for curve in curves if curve]
    steps = float(max(run.statement.planned_steps for run in runs))
    return render(
        "compare.html.j2",
        names=names,
        runs=runs,
        settings=settings,
        data=data,
        together=together,
        why_not=why_not,
        claimed=[claimed_epsilon(run.statement) for run in runs],
        repeated=repeated,
        overall=[class_bars(run.metrics).overall for run in runs],
        classes=_by_class(runs),
        most_shown=MOST_SHOWN,
        curves=curves,
        curve_area=PlotArea(steps, 1.08 * max(highest)) if highest else None,
        accuracies=[[(float(one.step), one.accuracy) for one in run.metrics.curve] for run in runs],
        accuracy_area=PlotArea(steps, 1.0),
    )


def _by_class(runs: Sequence[RunFacts]) -> list[tuple[str, list[ClassBar | None]]]:
    """Each class with its bar of each run; of many classes, those that differ most come first."""
    bars = [{bar.name: bar for bar in class_bars(run.metrics).bars} for run in runs]
    names = dict.fromkeys(name for run in runs for name in run.metrics.class_accuracy)
    rows = [(name, [of_run.get(name) for of_run in bars]) for name in names]
    if len(rows) > MOST_SHOWN:
        rows.sort(key=lambda row: -_spread(row[1]))
    return rows


def _spread(bars: list[ClassBar | None]) -> float:
    shares = [bar.accuracy for bar in bars if bar]
    return max(shares) - min(shares)


Row = tuple[str, list[str]]


_LONGEST = 80


_COUNTS = frozenset({"k_base", "k_self", "k_diff"})


_NOT_READ = "not read"


@dataclass(frozen=True)
class Comparison:
    """Several runs.

    Attributes:
        names: of their folders.
        runs: what their public files say.
        settings: those that differ, with each run's value; the form of the images is one of them.
        data: what differs of the data; whether the images themselves do, no public file tells.
        together: (epsilon, delta) of publishing all of them, where it is known.
        why_not: which run is the reason that it is not known, or that the data differ.
        repeated: where `together` is known and images are repeated, how often the most frequent
            one occurs, and the epsilon of the person in it.
    """

    names: tuple[str, ...]
    runs: tuple[RunFacts, ...]
    settings: list[Row]
    data: list[Row]
    together: tuple[float, float] | None
    why_not: str | None
    repeated: tuple[int, float] | None


def compare(roots: Sequence[Path]) -> Comparison:
    """Read the runs at `roots` and compare them.

    Raises:
        DpmixError: fewer than two folders, one given twice, or as `audited_facts` raises.
    """
    if len(roots) < 2:
        raise DpmixError(f"{len(roots)} run was given to compare; give two or more folders of runs")
    if len({root.resolve() for root in roots}) < len(roots):
        raise DpmixError("a run was given twice to be compared with itself; give each folder once")
    runs, names = tuple(audited_facts(RunFolder(root)) for root in roots), _names(roots)
    data, said = _data(runs), _released(runs)
    why_not = _no_sum(names, runs, said) or (_other_data(names, data[0], said) if data else None)
    said = [] if why_not else said
    return Comparison(
        names, runs, _settings(runs), data, _together(said, 1), why_not, _repeated(said)
    )


def _names(roots: Sequence[Path]) -> tuple[str, ...]:
    """The folders' names alone; numbered where two are called the same."""
    names = [root.resolve().name for root in roots]
    return tuple(
        f"{name} ({place})" if names.count(name) > 1 else name
        for place, name in enumerate(names, 1)
    )


def _settings(runs: tuple[RunFacts, ...]) -> list[Row]:
    # Whether a pool is pretrained on is no matter of the method.
    unread = [run.config.view_spec(flip=False).unread - {"pool_role"} for run in runs]
    form = _differing([("image shape", [run.input.image_shape for run in runs])])
    return form + _differing(
        (
            leaf,
            [
                _NOT_READ if leaf in of_method else getattr(getattr(run.config, section), leaf)
                for run, of_method in zip(runs, unread, strict=True)
            ],
        )
        for leaf, section in LEAVES.items()
        if leaf not in places("path") | places("resume")
    )


def _data(runs: tuple[RunFacts, ...]) -> list[Row]:
    # Images that differ can be equal once they are grey, or small.
    one_form = len({run.input.image_shape for run in runs}) == 1
    repeats = [("most frequent image", [_times(run.statement) for run in runs])]
    differing = _differing(
        [
            ("data set", _data_names(runs)),
            ("classes", [", ".join(run.input.class_names) for run in runs]),
            ("training images N", [run.statement.examples for run in runs]),
            *(repeats if one_form else []),
            ("judged on", [f"{run.metrics.images} {run.metrics.judged_on} images" for run in runs]),
        ]
    )
    # They tell apart what looks the same otherwise.
    per_class = [[sum(row.values()) for row in run.metrics.confusion.values()] for run in runs]
    return differing or _differing([("images by class", per_class)])


def _times(said: Statement) -> str:
    # It is counted where there is an epsilon to state.
    if not said.private:
        return _NOT_READ
    return f"occurs {said.repeats.most} times" if said.repeats else "occurs once"


def _data_names(runs: tuple[RunFacts, ...]) -> list[str]:
    """Public names; different folders, whose own names are not published, are numbered."""
    folders = [Path(run.config.data.data).name for run in runs]
    distinct = list(dict.fromkeys(folders))
    return [
        run.data_name
        if len(distinct) == 1 or run.data_name == run.config.data.data
        else f"{run.data_name} ({distinct.index(folder) + 1})"
        for run, folder in zip(runs, folders, strict=True)
    ]


def _differing(rows: Any) -> list[Row]:
    """The rows whose values are not all alike, as text."""
    return [
        (name, [_text(value) for value in values]) for name, values in rows if _differ(name, values)
    ]


def _differ(name: str, values: list[Any]) -> bool:
    # How many views a method makes is worth a row; what else it does not read goes without saying.
    told = values if name in _COUNTS else [value for value in values if value != _NOT_READ]
    return any(value != told[0] for value in told)


def _text(value: object) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _is_part_of(one: Statement, other: Statement) -> bool:
    """Whether `one` is `other` as it was some steps before: its release is then one of the other's.

    A run that was copied and went on twice has two releases for each step after that. Where it
    can't be told, both count, which is an upper bound.
    """
    straight_until = min(other.resumed_at, default=other.steps)
    return (
        one is not other
        and one.run_id == other.run_id
        and not one.resumed_at
        and one.steps <= straight_until
    )


def _released(runs: tuple[RunFacts, ...]) -> list[Statement]:
    """What was released, each once."""
    said = [run.statement for run in runs]
    copies = {(one.run_id, one.weights_sha256): one for one in said}.values()
    return [one for one in copies if not any(_is_part_of(one, other) for other in copies)]


def _no_sum(
    names: tuple[str, ...], runs: tuple[RunFacts, ...], said: list[Statement]
) -> str | None:
    """Which runs have no epsilon that adds up with others', if any."""
    faults = [
        f"'{name}' {fault}"
        for name, run in zip(names, runs, strict=True)
        if (fault := _fault(run.statement))
    ]
    if faults:
        return f"{'; '.join(faults)}: leave such runs out"
    return "all are one release: one run, copied or stopped earlier" if len(said) < 2 else None


def _fault(said: Statement) -> str | None:
    if not said.private:
        return "was trained without privacy"
    if said.seeded:
        return "is seeded, and runs of one seed share their noise, which does not add up"
    selected = said.expected_runs is not None
    return "is the best of a private selection, whose cost is no sum" if selected else None


def _other_data(names: tuple[str, ...], row: Row, said: list[Statement]) -> str:
    """The first run that was not trained on the first one's data, and what holds all the same."""
    what, values = row
    place = next(place for place, value in enumerate(values) if value != values[0])
    bound = _together(said, 1)
    assert bound is not None
    epsilon, delta = bound
    return (
        f"'{names[place]}' differs from '{names[0]}' in {what} ({values[place]}; {values[0]}); a "
        "person with one image in the data of each run has epsilon "
        f"{shown_epsilon(epsilon)} at most, at delta {delta}"
    )


def _together(said: list[Statement], copies: int) -> tuple[float, float] | None:
    """(epsilon, delta) of all that was released, for the person in `copies` equal images."""
    if not said:
        return None
    delta = max(one.delta for one in said)
    # All that was planned: what a run showed may be why it was stopped.
    trainings = tuple((one.sampling_rate, one.noise_multiplier, one.planned_steps) for one in said)
    # One release that several runs count is counted with each: an upper bound all the same.
    spent = tuple(sigma for one in said for sigma in one.spent_before)
    if copies == 1:
        return epsilon_together(trainings, delta, spent), delta
    return epsilon_of_copies_together(trainings, copies, delta, spent), delta


def _repeated(said: list[Statement]) -> tuple[int, float] | None:
    copies = max((one.repeats.most for one in said if one.repeats), default=1)
    together = _together(said, copies)
    return (copies, together[0]) if together and copies > 1 else None
