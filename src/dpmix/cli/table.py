"""`dpmix table`."""

from pathlib import Path
from typing import Annotated

import typer

from dpmix.experiments.results import FACTS


def table(
    results: Annotated[Path, typer.Argument(help="folder of a `dpmix sweep`, or its CSV")],
    *,
    form: Annotated[
        str, typer.Option("--format", help="markdown, latex (needs booktabs) or csv")
    ] = "markdown",
    fact: Annotated[str, typer.Option(help=f"what to show: {', '.join(FACTS)}")] = FACTS[0],
    columns: Annotated[
        str | None, typer.Option(help="the setting for the columns; default: epsilon")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="row that the others are compared with; default: the first")
    ] = None,
) -> None:
    """Print a sweep's results as the paper lays them out: mean and std, with paired tests."""
    from dpmix.experiments.table_text import table_text
    from dpmix.experiments.tables import read_results, tables, warn_of_diverged

    frame = read_results(results)
    if form == "csv":  # which has no caption
        warn_of_diverged(frame)
    made = tables(frame, fact=fact, columns=columns, against=against)
    typer.echo("\n".join(table_text(one, form) for one in made), nl=False)
