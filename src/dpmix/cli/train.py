"""`dpmix train`."""

from typing import Annotated, Any

import typer
from rich.console import Console

from dpmix.assembly import assemble
from dpmix.cli.flags import setting_flags
from dpmix.cli.progress import counting_bar, decoding_bar, training_bar
from dpmix.config import Config
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
    **settings: Any,
) -> None:
    """Train a private image classifier.

    With no flags: DP-Mix (mix-self) on 5,000 handwritten digits at epsilon 3, in a minute or two.

    Your own images: `dpmix train --data FOLDER --test-fraction 0.2 --image-size 32 --epsilon 3`
    """
    console = Console()
    with decoding_bar(console) as decoding:
        recipe = recipe_path(config) if config is not None else None
        parts = assemble(Config.load(recipe, **settings), decoding, dry=dry_run)
    if parts.splits.skipped:
        console.print(f"left out {parts.splits.skipped} corrupt images")
    plan_rows = guarantee_rows(parts.plan, parts.config.views.method, parts.config.run.seed)
    if dry_run:
        parts.check()
        console.print(two_columns([*plan_rows, *estimate_rows(parts)]))
        return
    console.print(f"{data_line(parts.splits)}; writing to {parts.folder}", highlight=False)
    for name, value in model_rows(parts):
        console.print(f"{name}: {value}", highlight=False)
    if parts.cache is not None:
        console.print(f"feature cache: {cache_line(parts)}", highlight=False)
    if chosen := parts.better:
        console.print(chosen, highlight=False)
    with (
        counting_bar(console, "pretraining on the pool", "steps") as pretraining,
        counting_bar(console, "embedding views", "views") as embedding,
        training_bar(console, parts.plan.steps, parts.plan.private) as report,
    ):
        result = run(parts, report, pretraining, embedding)
    rows = [
        *evaluation_rows(result.evaluation),
        *plan_rows,
        *pool_rows(parts.pool_facts, parts.config.views.pool_role),
        ("run folder", str(result.folder)),
    ]
    console.print(two_columns(rows))
