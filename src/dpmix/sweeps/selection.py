"""A private selection: the best of a secret, random number of runs of a sweep, and no other.

This runs the protocol of `privacy/selection.py`, whose theorem needs all of the following. The
number of runs is drawn from its distribution. Each run draws its settings at random from the
sweep's, with replacement. All have one plan, and fresh draws and noise. Only the best run leaves;
the others stay in a closed folder and are deleted at the end.

What leaves is the same function of the best run, wherever that stood among the others and however
many they were: its place is not part of the theorem's randomness, and anyone who learns it can
learn much more than epsilon allows. So only the public files leave, without the time at which they
were made, and statement and metrics contain nothing that depends on when, where or next to what a
run was made (`tests/sweeps/test_selection.py`, byte for byte).
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dpmix.errors import DpmixError
from dpmix.files import to_json, write_text
from dpmix.privacy.selection import check_expected_runs, number_of_runs
from dpmix.reports.facts import RunFacts
from dpmix.reports.guarantee import versions
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import read_facts
from dpmix.sweeps.grid import Sweep, SweepRun
from dpmix.sweeps.run import BEST, Workers

HIDDEN = "selection"
_NOTICE = (
    "PRIVATE. These are runs of a private selection. Its guarantee covers only the best of them,\n"
    "and not how many there are. They are deleted when it is complete: do not share them.\n"
)
_CHOSEN = "chosen"
# Everything else in a statement follows from the settings and from what is installed.
_DRAWN_IN_TRAINING = {"run_id", "weights_sha256", "sha256"}
# 1980, the first moment that every archive can hold: the time at which a run started, ended or was
# published would tell how many others there were.
_NO_TIME = 315532800


def candidates(sweep: Sweep, expected_runs: float) -> tuple[SweepRun, ...]:
    """The sweep's runs as the candidates of a selection, which their settings then state."""
    check_expected_runs(expected_runs)
    if sweep.tries:
        raise DpmixError("a private selection chooses by itself; take `tune` out of the sweep")
    first = sweep.runs[0].config
    for run in sweep.runs:
        config = run.config
        if (config.privacy, config.data) != (first.privacy, first.data):
            raise DpmixError(
                "a private selection needs runs that differ neither in privacy nor in data; take "
                f"what varies of those out of the sweep (row '{run.row}')"
            )
        for name in ("seed", "wandb", "tensorboard"):
            if getattr(config.run, name) not in (None, False):
                raise DpmixError(
                    "a private selection needs fresh noise and shows only its best run; take "
                    f"{name} out of the sweep"
                )
    batch = first.privacy.expected_batch_size or first.privacy.sampling_rate
    if batch is None or (first.privacy.steps is None and first.privacy.epochs is None):
        raise DpmixError(
            "a private selection needs one plan for all its runs; give expected_batch_size and "
            "steps (or epochs) in the sweep's settings"
        )
    if not first.privacy.epsilon < float("inf"):
        raise DpmixError("a private selection needs a finite epsilon; give one")
    chosen = {"expected_runs": expected_runs}
    return tuple(replace(run, settings=run.settings | chosen) for run in sweep.runs)


def select(
    among: tuple[SweepRun, ...], expected_runs: float, folder: Path, workers: Workers,
    report: Callable[[int, int], None],
) -> Path:  # fmt: skip
    """Run the selection, or resume the one that was stopped; return the best run's folder.

    `folder` gets `best/`, and meanwhile `selection/`, which is private. `report` is called with
    (runs done, runs in all), which are both secret.
    """
    best, hidden = folder / BEST, folder / HIDDEN
    if best.exists() or (hidden / _CHOSEN).exists():
        name = (hidden / _CHOSEN).read_text("utf-8") if (hidden / _CHOSEN).is_file() else ""
        if not best.exists() and name and (hidden / name).is_dir():
            return _publish(hidden / name, best)  # it was stopped just before
        shutil.rmtree(hidden, ignore_errors=True)
        raise DpmixError(
            f"the selection in '{folder}' is complete, and its best run was moved to '{best}'; "
            "give another --output"
        )
    drawn = _drawn(among, expected_runs, hidden)
    runs = [(among[index], hidden / f"run-{place}") for place, (index, _) in enumerate(drawn)]
    for done, outcome in enumerate(workers(runs), start=1):
        if outcome.error is not None:
            # Its number would tell how many runs there are, at least.
            error = re.sub(r"(run-|job )[0-9_]+", lambda name: name[1].strip("- "), outcome.error)
            raise DpmixError(f"a run of the selection failed: {error}")
        report(done, len(runs))
    facts = [read_facts(RunFolder(root)) for _, root in runs]
    _refuse_differences([run for run, _ in runs], facts, [root for _, root in runs])
    # The score of a run that diverged means nothing.
    scores = [
        (not one.metrics.diverged, one.metrics.score, tie)
        for one, (_, tie) in zip(facts, drawn, strict=True)
    ]
    # From here on no other run is ever published, whatever stops this.
    chosen = runs[scores.index(max(scores))][1]
    write_text(hidden / _CHOSEN, chosen.name)
    return _publish(chosen, best)


def _refuse_differences(runs: list[SweepRun], facts: list[RunFacts], roots: list[Path]) -> None:
    told = [one.statement for one in facts]
    plans = {(s.sampling_rate, s.noise_multiplier, s.steps, s.examples) for s in told}
    if len(plans) > 1:
        raise DpmixError("the runs of the selection differ in their plan: nothing can be published")
    # All runs of one candidate state the same.
    texts = {(run.name, one.model_dump_json(exclude=_DRAWN_IN_TRAINING))
             for run, one in zip(runs, told, strict=True)}  # fmt: skip
    if len(texts) > len({run.name for run in runs}):
        raise DpmixError(
            "the runs of the selection differ in what was left to the defaults, in the public pool "
            "or in their libraries, which would tell the best one's place among them: nothing can "
            "be published; start again with another --output"
        )
    if len({RunFolder(root).data_hash.read_text("utf-8") for root in roots}) > 1:
        raise DpmixError(
            "the images changed between the runs of the selection, whose guarantee is about one "
            "set of images: nothing can be published; start again with another --output"
        )


def _publish(chosen: Path, best: Path) -> Path:
    """Move the public files of the chosen run, and nothing else; delete all the rest."""
    public = RunFolder(chosen).published
    for path in [*chosen.iterdir()]:
        if path.is_dir():
            shutil.rmtree(path)
        elif path not in public:
            path.unlink()
    for path in (*chosen.iterdir(), chosen):
        os.utime(path, (_NO_TIME, _NO_TIME))
    chosen.replace(best)
    shutil.rmtree(chosen.parent)
    return best


def _drawn(
    among: tuple[SweepRun, ...], expected_runs: float, hidden: Path
) -> list[tuple[int, float]]:
    """Places of the candidates to run, in order, each with a random number that settles ties."""
    key = {
        "candidates": [run.name for run in among],
        "expected_runs": expected_runs,
        "versions": versions(),
    }
    path = hidden / "drawn.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] != key:
            raise DpmixError(
                f"'{hidden}' holds a selection among other settings, or of other versions of dpmix "
                "or its libraries; finish that one first, or give another --output"
            )
        return [(index, tie) for index, tie in kept["runs"]]
    # Runs without the draws that they are from can be no part of a selection.
    shutil.rmtree(hidden, ignore_errors=True)
    hidden.mkdir(mode=0o700, parents=True)
    write_text(hidden / "PRIVATE.txt", _NOTICE)
    draws = random.SystemRandom()
    count = number_of_runs(expected_runs, draws.random())
    runs = [(draws.randrange(len(among)), draws.random()) for _ in range(count)]
    write_text(path, to_json({"of": key, "runs": runs}))
    return runs
