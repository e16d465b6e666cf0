"""`dpmix plot`."""

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from dpmix.cli.console import stdout
from dpmix.errors import DpmixError, nearest
from dpmix.experiments.results import FACTS, VIEWS

Kind = Literal["against", "classes", "curves"]


def plot(
    results: Annotated[Path, typer.Argument(help="folder of a `dpmix sweep`, or its CSV")],
    *,
    output: Annotated[
        list[Path], typer.Option(help="picture to write: .png, .svg or .pdf; repeatable")
    ],
    kind: Annotated[
        str,
        typer.Option(help="against (a setting), classes (a bar each), curves (over the steps)"),
    ] = "against",
    x: Annotated[
        str | None,
        typer.Option(
            help="the setting on the horizontal axis, such as k_base; or, where rows differ by "
            f"them, {', '.join(VIEWS)}; default: epsilon"
        ),
    ] = None,
    fact: Annotated[str, typer.Option(help=f"what to draw: {', '.join(FACTS)}")] = FACTS[0],
) -> None:
    """Draw a sweep's results: means, with bands or bars of one standard deviation over seeds."""
    from dpmix.experiments.plots import draw_against, draw_classes, draw_curves
    from dpmix.experiments.tables import read_results, warn_of_diverged

    if kind not in get_args(Kind):
        raise DpmixError(f"unknown kind '{kind}': {nearest(kind, get_args(Kind))}")
    if kind != "against" and (fact != FACTS[0] or x is not None):
        raise DpmixError(
            f"--kind {kind} draws accuracy; leave out --fact and --x, or take --kind against"
        )
    frame = read_results(results)
    warn_of_diverged(frame)
    for path in output:
        if kind == "against":
            draw_against(frame, path, x=x, fact=fact)
        else:
            (draw_classes if kind == "classes" else draw_curves)(frame, path)
        stdout().print(f"wrote {path}")
