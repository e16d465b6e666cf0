"""What a sweep shows while it runs: how many runs are done, and the accuracy of every row."""

import statistics
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpmix.errors import without_controls
from dpmix.experiments.cell_run import Outcome
from dpmix.experiments.results import Row


class SweepDisplay:
    """The rows so far, as a table that is drawn anew with each of them."""

    def __init__(self, console: Console, live: Live, total: int) -> None:
        self.rows: list[Row] = []
        self._console, self._live, self._total = console, live, total
        self._told: set[str] = set()

    def show(self, rows: list[Row], outcome: Outcome | None) -> None:
        """Draw `rows`; say what the run of `outcome` warned of, once."""
        if rows and outcome is None:
            self._console.print(f"{len(rows)} of {self._total} were there already")
        self.rows = rows
        for warning in outcome.warnings if outcome else ():
            if warning not in self._told:
                self._console.print(f"warning: {without_controls(warning)}")
                self._told.add(warning)
        self._live.update(_table(rows, self._total))


@contextmanager
def live_results(console: Console, total: int) -> Iterator[SweepDisplay]:
    """Show a sweep of `total` runs; silent where the output is no terminal."""
    shown = console if console.is_terminal else Console(quiet=True)
    with Live(console=shown, transient=True) as live:
        display = SweepDisplay(console, live, total)
        try:
            yield display
        except KeyboardInterrupt:
            done = f"{len(display.rows)} of {total} runs are done"
            console.print(f"stopped, {done}; the same command goes on")
            raise


def _table(rows: list[Row], total: int) -> RenderableType:
    done = f"{len(rows)} of {total} runs"
    if not rows:
        return Text(done)
    by_row: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_row[row["row"]][row["epsilon"]].append(row["accuracy"])
    epsilons = sorted({row["epsilon"] for row in rows})
    table = Table(
        "", *(f"epsilon {epsilon:g}" for epsilon in epsilons), box=None, pad_edge=False,
        caption=done, caption_justify="left",
    )  # fmt: skip
    for name, cells in by_row.items():
        table.add_row(name, *(_cell(cells[epsilon]) for epsilon in epsilons))
    return table


def _cell(accuracies: list[float]) -> str:
    if not accuracies:
        return ""
    return f"{statistics.mean(accuracies):.1%} ({len(accuracies)})"
