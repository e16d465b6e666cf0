"""Run a sweep: every run once, whatever stopped the sweep before; then one CSV of all results."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from filelock import FileLock, Timeout

from dpmix.errors import DpmixError
from dpmix.experiments.cell_run import Outcome
from dpmix.experiments.changed_between import tell_of_changes
from dpmix.experiments.results import Row, row_of, write_results
from dpmix.experiments.sweep_file import Cell
from dpmix.experiments.workers import Runs
from dpmix.resume import is_complete

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
    tell_of_changes(cells, roots)
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
