"""`dpmix compare`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpmix.atomic_files import write_text
from dpmix.cli.console import stdout
from dpmix.comparison import Comparison
from dpmix.comparison import compare as side_by_side
from dpmix.reporting.page.compare_page import compare_page
from dpmix.reporting.page.plain_words import claimed_epsilon
from dpmix.reporting.rounding import shown_epsilon
from dpmix.reporting.statement import NOT_PRIVATE
from dpmix.reporting.summary import repeats_row, two_columns


def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of two or more runs")],
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("compare.html"),
) -> None:
    """Show runs side by side, on a page and in a short table.

    The page shows guarantee, accuracy, calibration, every class, the settings that differ, and what
    all of the runs together cost in privacy.
    """
    found = side_by_side(runs)
    write_text(
        output,
        compare_page(
            found.names, found.runs, settings=found.settings, data=found.data,
            together=found.together, why_not=found.why_not, repeated=found.repeated,
        ),
    )  # fmt: skip
    console = stdout()
    console.print(_table(found))
    console.print(two_columns([*_notes(found), ("page", str(output))]))


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("run", "method", "epsilon", "accuracy", "worst class", "calibration error"):
        table.add_column(title, overflow="fold")
    for name, run in zip(found.names, found.runs, strict=True):
        said, measured = run.statement, run.metrics
        table.add_row(
            name,
            said.method,
            claimed_epsilon(said) if said.private else NOT_PRIVATE,
            f"{'FAILED, diverged: ' if measured.diverged else ''}{measured.accuracy:.2%}",
            f"{measured.worst_class.name}: {measured.worst_class.accuracy:.2%}",
            f"{measured.calibration_error:.2%}",
        )
    return table


def _notes(found: Comparison) -> list[tuple[str, str]]:
    rows = []
    if found.data:
        differ = ", ".join(name for name, _ in found.data)
        rows.append(("data", f"THEY DIFFER ({differ}): accuracies are not to be compared"))
    if found.together:
        epsilon, delta = found.together
        spent = f"epsilon {shown_epsilon(epsilon)}, delta {delta}"
        rows.append(("all together", f"{spent}: if all of them, or only the best, are published"))
        if found.repeated:
            rows.append(repeats_row(*found.repeated))
    else:
        rows.append(("all together", f"no epsilon: {found.why_not}"))
    names = ", ".join(name for name, _ in found.settings) or "none"
    return [*rows, ("settings that differ", names)]
