"""`dpmix train`."""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from dpmix.cli.flags import setting_flags_but
from dpmix.cli.progress import (
    USER_ERROR,
    counting_bar,
    decoding_bar,
    share_bar,
    stdout,
    training_bar,
)
from dpmix.data.image import Progress as Counted
from dpmix.errors import DpmixError
from dpmix.files import InUseError
from dpmix.reports.metrics import read_metrics
from dpmix.reports.statement import shown_epsilon
from dpmix.reports.summary import (
    FAILED,
    divergence,
    evaluation_rows,
    guarantee_rows,
    pool_rows,
    two_columns,
)
from dpmix.runs.build import build_run
from dpmix.runs.checkpoint import Checkpoint, newest_step
from dpmix.runs.config import Config, read_recipe
from dpmix.runs.estimate import cache_line, data_line, estimate_rows, model_rows, pictures_line
from dpmix.runs.fit import run
from dpmix.runs.folder import RunFolder
from dpmix.runs.parts import Run
from dpmix.runs.recipes import network, recipe_names, recipe_path
from dpmix.runs.resume import is_complete, rebuild_run
from dpmix.runs.stand_ins import Trial, miniature
from dpmix.training.distributed import Ranks, shutdown, start
from dpmix.training.evaluate import Evaluation

# `dpmix recipes`: the settings of the paper's experiments.


recipes = typer.Typer(name="recipes", help="Show the recipes that come with the package.")


@recipes.command(name="list")
def list_recipes() -> None:
    """List them; `dpmix train --config NAME --epsilon 1` runs one."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe: network, data, method", "trains"):
        table.add_column(heading, overflow="fold")
    for name in recipe_names():
        table.add_row(name, network(name))
    stdout().print(table)


@recipes.command()
def show(
    name: Annotated[str, typer.Argument(help="a name of `dpmix recipes list`, or a YAML file")],
) -> None:
    """Print every setting of a recipe, those that it inherits included."""
    text = yaml.safe_dump(read_recipe(recipe_path(name)), sort_keys=False)
    console, text = stdout(), text.rstrip()
    coloured = Syntax(text, "yaml", background_color="default")
    console.print(coloured if console.is_terminal else text)


@setting_flags_but("expected_runs")
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
    resume: Annotated[
        str | None,
        typer.Option(help="folder of a stopped run: go on with it, under its own settings"),
    ] = None,
    **settings: Any,
) -> None:
    """Train a private image classifier.

    With no flags: Self-Aug (2 views) on 5,000 handwritten digits at epsilon 3, in about a minute.

    Your own images: `dpmix train --data FOLDER --epsilon 3`
    """
    _refuse_together({"--dry-run": dry_run, "--smoke": smoke, "--resume": resume is not None})
    _refuse_together({"--config": config is not None, "--resume": resume is not None})
    ranks = start()
    console = stdout(quiet=not ranks.is_main)
    try:
        if resume is not None:
            _resume(Path(resume).expanduser(), console, ranks, settings)
            return
        recipe = recipe_path(config) if config is not None else None
        chosen = Config.load(recipe, **settings).by_itself()
        if smoke:
            _smoke(chosen, console, ranks)
            return
        with decoding_bar(console) as decoding:
            trial: Trial | None = "dry-run" if dry_run else None
            parts = build_run(chosen, decoding, trial=trial, ranks=ranks)
        if dry_run:
            parts.check()
            console.print(two_columns([*_plan_rows(parts), *estimate_rows(parts)]))
            return
        _finish(parts, console)
    finally:
        shutdown()


def _refuse_together(given: dict[str, bool]) -> None:
    names = [name for name, there in given.items() if there]
    if len(names) > 1:
        raise DpmixError(f"{' and '.join(names)} were given together; give one of them")


def _smoke(chosen: Config, console: Console, ranks: Ranks) -> None:
    with tempfile.TemporaryDirectory() as folder:
        _train(build_run(miniature(chosen, Path(folder)), trial="smoke", ranks=ranks), console)
    console.print("smoke run: it works; all of it was noise, and nothing of it was kept")


def _resume(root: Path, console: Console, ranks: Ranks, settings: dict[str, Any]) -> None:
    if is_complete(root, **settings):
        console.print(f"the run in {root} is complete: there is nothing left to do")
        _exit_if_diverged(RunFolder(root), console)
        return
    with decoding_bar(console) as decoding:
        parts, checkpoint = rebuild_run(root, decoding, ranks, **settings)
    console.print(f"going on after step {checkpoint.step} of {parts.plan.steps}")
    _finish(parts, console, checkpoint)


def _exit_if_diverged(folder: RunFolder, console: Console) -> None:
    """Say again that a complete run failed, with the exit status that it had."""
    if not folder.metrics.is_file():
        return
    told = read_metrics(folder.metrics)
    if told.diverged:
        console.print(f"{FAILED}: {divergence(float(told.evaluation_loss), told.judged_on)}")
        raise typer.Exit(USER_ERROR)


def _finish(parts: Run, console: Console, checkpoint: Checkpoint | None = None) -> None:
    """Train; say what came of it, or how to go on."""
    try:
        evaluation, rows = _train(parts, console, checkpoint)
    except InUseError:
        raise
    except BaseException:
        folder = RunFolder(parts.folder)
        step = newest_step(folder.checkpoints)
        if step is not None:
            console.print(
                f"stopped; to go on after step {step}: dpmix train --resume {parts.folder}",
                soft_wrap=True,
            )
            if parts.plan.private:
                console.print(
                    f"epsilon {shown_epsilon(parts.plan.epsilon)} covers what it has published and "
                    "the rest of its steps; an epsilon of fewer steps holds only if it was fixed "
                    "beforehand to stop there",
                    soft_wrap=True,
                )
            if folder.previous.is_dir() and not folder.model.is_file():
                console.print(
                    f"the overwritten run is kept in {folder.previous} until this one has a model",
                    soft_wrap=True,
                )
        raise
    folder = RunFolder(parts.folder)
    places = [("run folder", str(folder.root)), ("page", str(folder.report))]
    console.print(two_columns([*rows, *places]))
    if evaluation.diverged:
        raise typer.Exit(USER_ERROR)


def _train(
    parts: Run, console: Console, checkpoint: Checkpoint | None = None
) -> tuple[Evaluation, list[tuple[str, str]]]:
    """Run it with its progress shown; return what came of it, and the rows that state it."""
    done, judged_on = checkpoint.step if checkpoint else 0, parts.splits.judged_on
    console.print(f"{data_line(parts)}; writing to {parts.folder}", soft_wrap=True)
    console.print(f"pictures: {pictures_line(parts)}", soft_wrap=True)
    for name, value in model_rows(parts):
        console.print(f"{name}: {value}")
    if parts.cache is not None:
        console.print(f"feature cache: {cache_line(parts)}")
    if parts.hint:
        console.print(parts.hint, soft_wrap=True)
    with (
        counting_bar(console, "pretraining on the pool", "steps") as pretraining,
        share_bar(console, "embedding views") as embedding,
        training_bar(console, parts.plan, done, judged_on) as report,
    ):
        said = _saying_what_was_there(console, embedding)
        result = run(parts, report, pretraining, said, checkpoint)
    return result.evaluation, [
        *evaluation_rows(result.evaluation, judged_on),
        *_plan_rows(parts),
        *pool_rows(parts.pool_facts, parts.config.views.pool_role),
    ]


def _saying_what_was_there(console: Console, embedding: Counted) -> Counted:
    """`embedding`, which first hears of the training views; say what share a cache held."""
    heard = False

    def update(done: int, total: int) -> None:
        nonlocal heard
        if done and not heard:
            # A share, since the number of views would tell N.
            found = f"{done / total:.0%} was there" if done < total else "found whole"
            console.print(f"feature cache: {found}")
        heard = True
        embedding(done, total)

    return update


def _plan_rows(parts: Run) -> list[tuple[str, str]]:
    return guarantee_rows(parts.plan, parts.views.spec.method, parts.config.run.seed, parts.copies)
