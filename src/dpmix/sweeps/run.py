"""Run a sweep: every run once, whatever stopped the sweep before; then one CSV of all results."""

import csv
import io
import json
import os
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from dpmix.errors import DpmixError, one_line, to_install
from dpmix.files import lock, to_json, write_text
from dpmix.reports.statement import read_statement
from dpmix.runs.build import build_run
from dpmix.runs.checkpoint import newest_step
from dpmix.runs.config import Config
from dpmix.runs.fit import fit, train_run
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import read_facts
from dpmix.runs.resume import is_complete
from dpmix.sweeps.grid import SEED, Cell, Settings, Sweep

# What a sweep's runs came to: one tidy row a run, in a CSV that tables and plots are made from.


Row = dict[str, Any]


FACTS = ("accuracy", "worst_class_accuracy", "calibration_error")


"""Measured numbers that a table or a plot can show."""


VIEWS = ("base_views", "mixed_views", "public_views")


"""How many views of an example there were, of each kind."""


RESULTS = "results.csv"


BEST = "best"


"""Folder of the run that a private selection published."""


# Beside these and FACTS stands every setting that the sweep varies.
_IDENTITY = ("row", "data", "model", "method", "epsilon", "seed")


_REST = (
    "worst_class", *VIEWS, "judged_on", "images", "sigma", "sampling_rate", "steps", "examples",
    "class_accuracy", "tuned", "curve", "diverged", "private", "engine", "machine", "dpmix",
    "torch", "config", "weights_sha256",
)  # fmt: skip


def row_of(cell: Cell, root: Path) -> Row:
    """The row of a complete run in folder `root`.

    Raises:
        DpmixError: as `read_facts` raises.
    """
    run = read_facts(RunFolder(root))
    said, measured = run.statement, run.metrics
    views = run.views
    return {
        "row": cell.row,
        "model": measured.model,
        "method": said.method,
        "epsilon": cell.config.privacy.epsilon,
        "seed": cell.config.run.seed,
        **cell.swept,
        "data": run.data_name,  # after what was swept, which can be whole paths
        "accuracy": measured.accuracy,
        "worst_class_accuracy": measured.worst_class.accuracy,
        "calibration_error": measured.calibration_error,
        "worst_class": measured.worst_class.name,
        **{name: getattr(views, name) for name in VIEWS},
        "judged_on": measured.judged_on,
        "images": measured.images,
        "sigma": said.noise_multiplier,
        "sampling_rate": said.sampling_rate,
        "steps": said.steps,
        "examples": said.examples,
        "class_accuracy": json.dumps(measured.class_accuracy),
        "tuned": json.dumps(cell.tuned),
        "curve": json.dumps([[point.step, point.accuracy] for point in measured.curve]),
        "diverged": measured.diverged,
        "private": said.private,
        "engine": measured.engine,
        "machine": measured.machine,
        "dpmix": said.versions["dpmix"],
        "torch": said.versions["torch"],
        "config": cell.name,
        "weights_sha256": said.weights_sha256,
    }


def write_results(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV, columns in a fixed order."""
    swept = {name: None for row in rows for name in row if name not in (*FACTS, *_REST)}
    columns = [*dict.fromkeys([*_IDENTITY, *swept]), *FACTS, *_REST]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def results_path(source: Path) -> Path:
    """The CSV of a sweep's folder, or the CSV itself.

    Raises:
        DpmixError: neither.
    """
    path = source / RESULTS if source.is_dir() else source
    if (source / BEST).is_dir() and not path.exists():
        raise DpmixError(
            f"'{source}' is of a private selection, which publishes its best run alone; see "
            f"'{source / BEST}'"
        )
    if not path.is_file():
        raise DpmixError(f"no results at '{path}'; give the folder of a `dpmix sweep`, or its CSV")
    return path


# Whether what the runs of a sweep share was the same for all of them.


# In the order in which they are told; the first that changed is told alone.
_TOLD = {
    "images": "the images changed between runs of this sweep",
    "pool": "the public pool changed between runs of this sweep",
    "settings": "runs of this sweep that differ in their seeds alone differ in what was left to "
    "the defaults, as another version or another machine chose it",
}


def warn_if_inputs_changed(cells: tuple[Cell, ...], roots: dict[str, Path]) -> None:
    """Warn if runs with the same settings read other images or another pool, or chose otherwise.

    Args:
        cells: the sweep's runs.
        roots: the folder of each, by its name; runs that are not there are left out.
    """
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    for cell in cells:
        folder = RunFolder(roots[cell.name])
        if not (folder.data_hash.is_file() and folder.privacy.is_file()):
            continue
        train, test = folder.data_hash.read_text(encoding="utf-8").split()
        data = cell.config.data.model_dump_json()
        seen["images", data].add(train)
        # The same images are tested on, however many there are to train on.
        tested = cell.config.data.model_dump_json(exclude={"train_images"})
        seen["images", f"test {tested}"].add(test)
        if (pool := read_statement(folder.privacy).public_inputs.pool) is not None:
            views = {name: value for name, value in cell.config.views if name.startswith("pool")}
            seen["pool", f"{data} {views}"].add(pool.contents_sha256)
        given = {name: value for name, value in cell.settings.items() if name != SEED}
        chosen = Config.load(folder.config).model_dump(mode="json", exclude={"run"})
        seen["settings", f"{cell.base} {to_json(given)}"].add(to_json(chosen))
    changed = {what for (what, _), found in seen.items() if len(found) > 1}
    for what, said in _TOLD.items():
        if what in changed:
            warnings.warn(
                f"{said}, which are not to be compared; give another --output to run all of them "
                "as things are now",
                stacklevel=2,
            )
            return


# One run of a sweep, in whatever process: begun, gone on with, or found complete.


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        cell: which.
        error: why it failed, if it did.
        warnings: what it warned of.
    """

    cell: Cell
    error: str | None = None
    warnings: tuple[str, ...] = ()


def run_cell(cell: Cell, root: Path, threads: int | None, gpu: int | None) -> Outcome:
    """Bring the run of `cell` in folder `root` to its end.

    Args:
        cell: the run.
        root: its folder.
        threads: of the processor that it may use; None: as many as there are.
        gpu: which, where its settings name no device; None: the first.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            _finish(cell, root, gpu)
        except DpmixError as error:
            return Outcome(cell, str(error))
        except Exception as error:  # of a library: the other runs are to be made all the same
            return Outcome(cell, f"{type(error).__name__}: {one_line(error)}")
    said = tuple(str(one.message) for one in told if one.category is UserWarning)
    return Outcome(cell, warnings=said)


def _finish(cell: Cell, root: Path, gpu: int | None) -> None:
    if root.is_dir() and is_complete(root):
        return
    with _on(gpu):
        if newest_step(RunFolder(root).checkpoints) is not None:
            fit(resume=root, device=cell.config.run.device)
        else:
            train_run(build_run(Config.load(cell.base, **cell.settings, output=os.fspath(root))))


def _on(gpu: int | None) -> AbstractContextManager[object]:
    """Let `cuda` be GPU number `gpu` meanwhile.

    It is no setting: a run publishes those, and the number tells which of a private selection's
    runs it was (`tests/experiments/test_selection_run.py`).
    """
    usable = gpu is not None and torch.cuda.is_available()
    return torch.cuda.device(gpu) if usable else nullcontext()


# Settings chosen by a sweep's tries, the same number of them for every row.
#
# The tries are judged on training images that were held out, so that the test images are used
# once.


TRIES = "tuning.csv"


Scores = dict[str, dict[str, list[tuple[bool, float]]]]


"""Whether each try diverged, and its accuracy, by its row and grid values, then by its settings."""


def tuned_cells(sweep: Sweep, tried: list[Row]) -> tuple[Cell, ...]:
    """The sweep's runs, each with the values that had the best mean accuracy over its tries' seeds.

    Args:
        sweep: with tries.
        tried: their results. Among equals the first in the file's order wins, and values with a
            try that diverged lose to all without: its accuracy means nothing.

    Raises:
        DpmixError: a run for which no try came to its end.
    """
    scores: Scores = defaultdict(lambda: defaultdict(list))
    values: dict[str, Settings] = {}
    names = sweep.cells[0].swept.keys() - {SEED}
    for row in tried:
        chosen = {name: row[name] for name in sweep.tuned}
        values[to_json(chosen)] = chosen
        group = to_json([row["row"], {name: row[name] for name in sorted(names)}])
        scores[group][to_json(chosen)].append((row["diverged"], row["accuracy"]))
    return tuple(_tuned(cell, scores, values) for cell in sweep.cells)


def _tuned(cell: Cell, scores: Scores, values: dict[str, Settings]) -> Cell:
    place = {name: value for name, value in sorted(cell.swept.items()) if name != SEED}
    found = scores.get(to_json([cell.row, place]))
    if not found:
        raise DpmixError(f"row '{cell.row}' at {place}: none of its tries came to an end")
    best = values[max(found, key=lambda chosen: _rank(found[chosen]))]
    return replace(cell, settings=cell.settings | best, tuned=best)


def _rank(tries: list[tuple[bool, float]]) -> tuple[bool, float]:
    return not any(diverged for diverged, _ in tries), statistics.mean(one for _, one in tries)


# Where the runs of a sweep happen: in processes of this machine, or as jobs of a cluster.


Runs = list[tuple[Cell, Path]]


"""Runs and their folders."""


def default_jobs() -> int:
    """Runs at once: one for each GPU, else one for every two cores."""
    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // 2)


def on_this_machine(runs: Runs, jobs: int) -> Iterator[Outcome]:
    """Run `jobs` at once, each in a process of its own; yield outcomes as they come.

    Each has its share of the cores, and the GPUs are dealt out in turn.

    Raises:
        DpmixError: joblib is not installed, or one of the processes was killed.
    """
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import BrokenProcessPool
    except ImportError:
        raise DpmixError(f"a sweep needs joblib; {to_install('sweep')}") from None
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    try:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
            delayed(run_cell)(cell, root, threads, _device(index, cell))
            for index, (cell, root) in enumerate(runs)
        )
    except BrokenProcessPool:
        raise DpmixError(
            "a process of the sweep was killed, perhaps for want of memory; what is done is kept: "
            "give the same command again, with fewer --jobs"
        ) from None


def on_cluster(runs: Runs, cluster: str, logs: Path, options: dict[str, Any]) -> Iterator[Outcome]:
    """Submit each run as a job; yield outcomes as they come.

    Args:
        runs: to be made.
        cluster: of submitit: slurm, or local (processes of this machine).
        logs: folder for what the jobs print.
        options: of submitit's executor, such as timeout_min or slurm_partition.

    Raises:
        DpmixError: submitit is not installed, or the cluster takes no jobs or not these options.
    """
    try:
        import submitit
    except ImportError:
        raise DpmixError(f"--cluster needs submitit; {to_install('sweep')}") from None
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**options)
        with executor.batch():
            jobs = [executor.submit(run_cell, cell, root, None, None) for cell, root in runs]
    except (NameError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise DpmixError(f"cluster '{cluster}' takes no jobs: {one_line(error)}") from None
    cells = {job: cell for job, (cell, _) in zip(jobs, runs, strict=True)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
        yield _outcome(job, cells[job], logs)


def _outcome(job: Any, cell: Cell, logs: Path) -> Outcome:
    error = job.exception()
    if error is None:
        result: Outcome = job.result()
        return result
    return Outcome(cell, f"job {job.job_id} died ({one_line(error)}); see its log in '{logs}'")


def _device(index: int, cell: Cell) -> int | None:
    """The number of one of several GPUs, where the run's settings name none."""
    count = torch.cuda.device_count()
    return index % count if count > 1 and cell.config.run.device == "auto" else None


RUNS = "runs"


Workers = Callable[[Runs], Iterator[Outcome]]


Report = Callable[[list[Row], Outcome | None], None]


def run_cells(
    cells: tuple[Cell, ...], folder: Path, results: str, workers: Workers, report: Report
) -> list[Outcome]:
    """Make the runs that `folder` lacks, and write results after each.

    Args:
        cells: what to run.
        folder: of the sweep; runs lie in `runs/`, named by their settings, so that a sweep that
            was changed keeps the runs that it still has.
        results: name of the CSV in `folder`.
        workers: make runs, in whatever processes.
        report: told all rows so far, first and after every run.

    Returns:
        The outcomes of runs that failed.
    """
    rows: dict[int, Row] = {}  # by their cell's place; each run is read once
    roots = {cell.name: folder / RUNS / cell.name for cell in cells}

    def read(name: str) -> None:
        for place, cell in enumerate(cells):
            if cell.name == name:
                rows[place] = row_of(cell, roots[name])

    def so_far() -> list[Row]:
        return [rows[place] for place in sorted(rows)]

    made = {name for name, root in roots.items() if root.is_dir() and is_complete(root)}
    for name in made:
        read(name)
    if made:
        write_results(folder / results, so_far())
    report(so_far(), None)
    missing = {cell.name: cell for cell in cells if cell.name not in made}
    failed = []
    for outcome in workers([(cell, roots[cell.name]) for cell in in_turns([*missing.values()])]):
        if outcome.error is None:
            read(outcome.cell.name)
            write_results(folder / results, so_far())
        else:
            failed.append(outcome)
        report(so_far(), outcome)
    warn_if_inputs_changed(cells, roots)
    return failed


def in_turns(cells: list[Cell]) -> list[Cell]:
    """A cell of every row, then the next of every row, and so on.

    Rows can then be compared early, and runs at once seldom wait for the same feature cache.
    """
    by_row: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_row[cell.row].append(cell)
    turns = zip_longest(*by_row.values())
    return [cell for turn in turns for cell in turn if cell is not None]


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a sweep's folder, and hold it.

    Raises:
        DpmixError: it can't be made, or another sweep is running in it.
    """
    held = lock(folder / ".lock", f"sweep folder '{folder}'")
    try:
        yield
    finally:
        held.release()
