"""Run a sweep: every run once, whatever stopped the sweep before; then one CSV of all results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from dpmix.errors import DpmixError
from dpmix.experiments.cell_run import Outcome
from dpmix.experiments.results import RESULTS, Row, row_of, write_results
from dpmix.experiments.sweep_file import Cell, Sweep
from dpmix.experiments.workers import Runs
from dpmix.resume import is_complete

RUNS = "runs"
Workers = Callable[[Runs], Iterator[Outcome]]
Report = Callable[[list[Row], Outcome | None], None]


def run_sweep(sweep: Sweep, folder: Path, workers: Workers, report: Report) -> list[Outcome]:
    """Make the runs of `sweep` that `folder` lacks, and write results after each.

    Args:
        sweep: what to run.
        folder: of the sweep; runs lie in `runs/`, named by their settings, so that a sweep that
            was changed keeps the runs that it still has.
        workers: make runs, in whatever processes.
        report: told all rows so far, first and after every run.

    Returns:
        The outcomes of runs that failed.
    """
    made = _made(sweep, folder)
    report(_rows(sweep, folder, made), None)
    missing = {cell.name: cell for cell in sweep.cells if cell.name not in made}
    failed = []
    for outcome in workers([(cell, _root(folder, cell)) for cell in missing.values()]):
        if outcome.error is None:
            made.add(outcome.cell.name)
            write_results(folder / RESULTS, _rows(sweep, folder, made))
        else:
            failed.append(outcome)
        report(_rows(sweep, folder, made), outcome)
    if made:
        write_results(folder / RESULTS, _rows(sweep, folder, made))
    return failed


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Make a sweep's folder, and hold it.

    Raises:
        DpmixError: it can't be made, or another sweep is running in it.
    """
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise DpmixError(
            f"sweep folder '{folder}' is in use by another sweep; wait for it, or give another "
            "--output"
        ) from None
    except OSError as error:
        raise DpmixError(
            f"cannot make sweep folder '{folder}': {error.strerror}; give another --output"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _made(sweep: Sweep, folder: Path) -> set[str]:
    roots = {cell.name: _root(folder, cell) for cell in sweep.cells}
    return {name for name, root in roots.items() if root.is_dir() and is_complete(root)}


def _rows(sweep: Sweep, folder: Path, made: set[str]) -> list[Row]:
    return [row_of(cell, _root(folder, cell)) for cell in sweep.cells if cell.name in made]


def _root(folder: Path, cell: Cell) -> Path:
    return folder / RUNS / cell.name
