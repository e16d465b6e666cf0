"""`dpmix train`."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dpmix.assembly import Assembly, assemble
from dpmix.assembly.stand_ins import miniature
from dpmix.cli.console import stdout
from dpmix.cli.flags import setting_flags
from dpmix.cli.progress import counting_bar, decoding_bar, training_bar
from dpmix.config import Config
from dpmix.data.options import Progress as Counted
from dpmix.errors import DpmixError
from dpmix.estimate import cache_line, data_line, estimate_rows, model_rows
from dpmix.experiments.recipes import recipe_path
from dpmix.fit import run
from dpmix.reporting.summary import evaluation_rows, guarantee_rows, pool_rows, two_columns


@setting_flags
def train(
    *,
    config: Annotated[
        str | None,
        typer.Option(help="recipe: a YAML file of settings, or a name of `dpmix recipes list`"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the plan, sizes and estimated time; train not")
    ] = False,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke",
            help="two steps on two images of noise, without data, weights or pool: does it run?",
        ),
    ] = False,
    **settings: Any,
) -> None:
    """Train a private image classifier.

    With no flags: DP-Mix (mix-self) on 5,000 handwritten digits at epsilon 3, in a minute or two.

    Your own images: `dpmix train --data FOLDER --epsilon 3`
    """
    console = stdout()
    chosen = Config.load(recipe_path(config) if config is not None else None, **settings)
    if smoke:
        if dry_run:
            raise DpmixError("--dry-run and --smoke were both given; give one")
        with tempfile.TemporaryDirectory() as folder:
            parts = assemble(miniature(chosen, Path(folder)), trial="smoke")
            _train(parts, console)
        console.print("smoke run: it works; all of it was noise, and nothing of it was kept")
        return
    with decoding_bar(console) as decoding:
        parts = assemble(chosen, decoding, trial="dry-run" if dry_run else None)
    if parts.splits.skipped:
        console.print(f"left out {parts.splits.skipped} corrupt images")
    if dry_run:
        parts.check()
        console.print(two_columns([*_plan_rows(parts), *estimate_rows(parts)]))
        return
    rows = _train(parts, console)
    console.print(two_columns([*rows, ("run folder", str(parts.folder))]))


def _train(parts: Assembly, console: Console) -> list[tuple[str, str]]:
    """Run it with its progress shown; return what is to be said of the result."""
    console.print(f"{data_line(parts.splits)}; writing to {parts.folder}")
    for name, value in model_rows(parts):
        console.print(f"{name}: {value}")
    if parts.cache is not None:
        console.print(f"feature cache: {cache_line(parts)}")
    if parts.better:
        console.print(parts.better)
    with (
        counting_bar(console, "pretraining on the pool", "steps") as pretraining,
        counting_bar(console, "embedding views", "views") as embedding,
        training_bar(console, parts.plan.steps, parts.plan.private) as report,
    ):
        result = run(parts, report, pretraining, _saying_what_was_there(console, embedding))
    return [
        *evaluation_rows(result.evaluation),
        *_plan_rows(parts),
        *pool_rows(parts.pool_facts, parts.config.views.pool_role),
    ]


def _saying_what_was_there(console: Console, embedding: Counted) -> Counted:
    """`embedding`, which first hears of the training views; say how many of them a cache held."""
    heard = False

    def update(done: int, total: int) -> None:
        nonlocal heard
        if done and not heard:
            left = f"going on after {done:,} views" if done < total else "found whole"
            console.print(f"feature cache: {left}")
        heard = True
        embedding(done, total)

    return update


def _plan_rows(parts: Assembly) -> list[tuple[str, str]]:
    return guarantee_rows(parts.plan, parts.views.spec.method, parts.config.run.seed)
