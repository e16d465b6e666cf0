"""A private selection: the best of a secret, random number of runs of a sweep, and no other.

The protocol of `privacy/private_selection.py`, whose theorem needs all of this: how many runs there
are is drawn from its distribution; each draws its settings at random from the sweep's, with
replacement; all have one plan; draws and noise are fresh; and nothing but the best run leaves.
Whatever else there was lies in a closed folder and is deleted at the end.

What leaves is the same function of the best run wherever that stood among the others and however
many they were: the place is no randomness of the theorem's, and whoever learns it can be told far
more than epsilon allows. So the public files alone leave, without the time of their making, and
`privacy_statement` and `metrics` say nothing that depends on when, where or beside what a run was
made (`tests/experiments/test_selection_run.py`, byte for byte).
"""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError
from dpmix.files import to_json, write_text
from dpmix.privacy.selection import check_expected_runs, number_of_runs
from dpmix.reports.statement import read_statement, versions
from dpmix.runs.folder import RunFolder
from dpmix.sweeps.grid import Cell, Sweep
from dpmix.sweeps.run import BEST, Outcome, Runs, row_of

NOTICE = (
    "PRIVATE. These are runs of a private selection. Its guarantee covers the best of them alone,\n"
    "and not how many there are. They are deleted when it is complete: do not share them.\n"
)


HIDDEN = "selection"


_CHOSEN = "chosen"


_PLAN = ("sampling_rate", "sigma", "steps", "examples")


# What training draws; all else in a statement follows from the settings and what is installed.
_DRAWN = {"run_id", "weights_sha256", "sha256"}


# 1980, the first moment that every archive can tell: from the start or the end of a run, and when
# it was published, follows how many others there were.
_NO_TIME = 315532800


def candidates(sweep: Sweep, expected_runs: float) -> tuple[Cell, ...]:
    """The sweep's runs as the candidates of a selection, told so in their settings.

    Raises:
        DpmixError: a mean out of range, or runs that could differ in their plan, that are seeded,
            or that are not private.
    """
    check_expected_runs(expected_runs)
    if sweep.tries:
        raise DpmixError("a private selection chooses by itself; take `tune` out of the sweep")
    first = sweep.cells[0].config
    for cell in sweep.cells:
        privacy, config = cell.config.privacy, cell.config
        if (privacy, config.data) != (first.privacy, first.data):
            raise DpmixError(
                "a private selection needs runs that differ neither in privacy nor in data; take "
                f"what varies of those out of the sweep (row '{cell.row}')"
            )
        if config.run.seed is not None:
            raise DpmixError("a private selection needs fresh noise; take seed out of the sweep")
        if config.run.wandb or config.run.tensorboard:
            raise DpmixError(
                "a private selection keeps all runs but one to itself; take wandb and tensorboard "
                "out of the sweep"
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
    return tuple(replace(cell, settings=cell.settings | chosen) for cell in sweep.cells)


def select(
    among: tuple[Cell, ...],
    expected_runs: float,
    folder: Path,
    workers: Callable[[Runs], Iterator[Outcome]],
    report: Callable[[int, int], None],
) -> Path:
    """Run the selection, or go on with the one that was stopped; return the best run's folder.

    Args:
        among: of `candidates`.
        expected_runs: as there.
        folder: gets `best/`, and meanwhile `selection/`, which is private.
        workers: make runs.
        report: told (runs done, runs in all), both of which are secret.

    Raises:
        DpmixError: the folder has a best run, another selection was begun in it, or a run failed.
    """
    best, hidden = folder / BEST, folder / HIDDEN
    if best.exists() or (hidden / _CHOSEN).exists():
        chosen = _chosen(hidden)
        if not best.exists() and chosen is not None:
            return _published(chosen, best)  # it was stopped just before
        shutil.rmtree(hidden, ignore_errors=True)
        raise DpmixError(
            f"the selection in '{folder}' is complete, and its best run was moved to '{best}'; "
            "give another --output"
        )
    drawn = _drawn(among, expected_runs, hidden)
    runs = [(among[index], hidden / f"run-{place}") for place, (index, _) in enumerate(drawn)]
    for done, outcome in enumerate(workers(runs), start=1):
        if outcome.error is not None:
            raise DpmixError(f"a run of the selection failed: {_without_its_place(outcome.error)}")
        report(done, len(runs))
    rows = [row_of(cell, root) for cell, root in runs]
    if len({tuple(row[name] for name in _PLAN) for row in rows}) > 1:
        raise DpmixError("the runs of the selection differ in their plan: nothing can be published")
    if len({(cell.name, _told(root)) for cell, root in runs}) > len(
        {cell.name for cell, _ in runs}
    ):
        raise DpmixError(
            "the runs of the selection differ in what was left to the defaults, in the public pool "
            "or in the versions of their libraries, which would tell the best one's place among "
            "them: nothing can be published; begin again with another --output"
        )
    if len({RunFolder(root).data_hash.read_text(encoding="utf-8") for _, root in runs}) > 1:
        raise DpmixError(
            "the images changed between the runs of the selection, whose guarantee is about one "
            "set of images: nothing can be published; begin anew with another --output"
        )
    # The accuracy of a run that diverged means nothing.
    scores = [
        (not row["diverged"], row["accuracy"], tie)
        for row, (_, tie) in zip(rows, drawn, strict=True)
    ]
    # From here on no other run is ever published, whatever stops this.
    chosen = runs[scores.index(max(scores))][1]
    write_text(hidden / _CHOSEN, chosen.name)
    return _published(chosen, best)


def _chosen(hidden: Path) -> Path | None:
    """The run that was chosen, if it still lies among the others."""
    path = hidden / _CHOSEN
    name = path.read_text(encoding="utf-8") if path.is_file() else ""
    return hidden / name if name and (hidden / name).is_dir() else None


def _told(root: Path) -> str:
    """What a run tells but for what it drew: all runs of one candidate tell the same."""
    return read_statement(RunFolder(root).privacy).model_dump_json(exclude=_DRAWN)


def _without_its_place(error: str) -> str:
    """Which run it was tells how many there are, at least."""
    return re.sub(r"(run-|job )[0-9_]+", lambda name: name[1].strip("- "), error)


def _published(chosen: Path, best: Path) -> Path:
    """Move the public files of the run that was chosen, and nothing else; delete all the rest."""
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


def _drawn(among: tuple[Cell, ...], expected_runs: float, hidden: Path) -> list[tuple[int, float]]:
    """Which candidates are run, in order, each with a number that settles ties."""
    key = {
        "candidates": [cell.name for cell in among],
        "expected_runs": expected_runs,
        "versions": versions(),
    }
    path = hidden / "drawn.json"
    if path.is_file():
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if kept["of"] != key:
            raise DpmixError(
                f"'{hidden}' holds a selection among other settings, or one that was begun with "
                "other versions of dpmix or its libraries; finish that one first, or give another "
                "--output"
            )
        return [(index, tie) for index, tie in kept["runs"]]
    if any(hidden.glob("run-*")):
        raise DpmixError(
            f"'{hidden}' holds runs and not what was drawn; delete it to begin anew, or give "
            "another --output"
        )
    hidden.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden.chmod(0o700)
    write_text(hidden / "PRIVATE.txt", NOTICE)
    draws = random.SystemRandom()
    count = number_of_runs(expected_runs, draws.random())
    runs = [(draws.randrange(len(among)), draws.random()) for _ in range(count)]
    write_text(path, to_json({"of": key, "runs": runs}))
    return runs
