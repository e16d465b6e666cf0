"""`dpmix train`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from dpmix.cli.console import USER_ERROR, stdout
from dpmix.cli.flags import setting_flags_but
from dpmix.cli.progress import counting_bar, decoding_bar, share_bar, training_bar
from dpmix.errors import DpmixError
from dpmix.files import InUseError
from dpmix.reports.metrics import read_metrics
from dpmix.reports.statement import shown_epsilon
from dpmix.reports.summary import (
    FAILED,
    divergence,
    evaluation_rows,
    plan_rows,
    pool_rows,
    two_columns,
)
from dpmix.runs.balance import balance_rows
from dpmix.runs.build import Run, build_run
from dpmix.runs.checkpoint import Checkpoint, newest_step
from dpmix.runs.config import Config
from dpmix.runs.estimate import Rows, estimate_rows, pool_use, run_rows
from dpmix.runs.fit import smoke_run, train_run
from dpmix.runs.folder import RunFolder
from dpmix.runs.resume import is_complete, rebuild_run
from dpmix.training.distributed import Ranks, shutdown, start
from dpmix.training.evaluate import Evaluation


@setting_flags_but("expected_runs")
def train(
    *,
    config: Annotated[
        str | None, typer.Option(help="recipe: a YAML file, or a name of `dpmix recipes list`")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print plan, sizes and estimated time, and stop")
    ] = False,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="test the settings: two steps on two images of noise")
    ] = False,
    resume: Annotated[
        str | None, typer.Option(help="folder of a stopped run, to resume with its own settings")
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
        chosen = Config.load(config, **settings).require_no_selection()
        if smoke:
            with smoke_run(chosen, ranks) as run:
                _train(run, console)
            console.print("smoke run: it works; all of it was noise, and nothing of it was kept")
            return
        with decoding_bar(console) as decoding:
            run = build_run(chosen, decoding, trial=dry_run, ranks=ranks)
        if dry_run:
            balance = balance_rows(run.config, trial=True)
            console.print(two_columns([*_plan_rows(run), *balance, *estimate_rows(run)]))
            return
        _finish(run, console)
    finally:
        shutdown()


def _refuse_together(given: dict[str, bool]) -> None:
    names = [name for name, there in given.items() if there]
    if len(names) > 1:
        raise DpmixError(f"{' and '.join(names)} were given together; give one of them")


def _resume(root: Path, console: Console, ranks: Ranks, settings: dict[str, Any]) -> None:
    if is_complete(root, **settings):
        console.print(f"the run in {root} is complete: there is nothing left to do")
        metrics = RunFolder(root).metrics
        if metrics.is_file() and (measured := read_metrics(metrics)).diverged:
            loss = divergence(float(measured.evaluation_loss), measured.judged_on)
            console.print(f"{FAILED}: {loss}")
            raise typer.Exit(USER_ERROR)  # as when it ran
        return
    with decoding_bar(console) as decoding:
        run, checkpoint = rebuild_run(root, decoding, ranks, **settings)
    console.print(f"resuming after step {checkpoint.step} of {run.plan.steps}")
    _finish(run, console, checkpoint)


def _finish(run: Run, console: Console, checkpoint: Checkpoint | None = None) -> None:
    """Train; print the result, or how to resume."""
    folder = RunFolder(run.folder)
    try:
        evaluation, rows = _train(run, console, checkpoint)
    except InUseError:
        raise
    except BaseException:
        step = newest_step(folder.checkpoints)
        if step is not None:
            lines = f"stopped; to resume after step {step}: dpmix train --resume {run.folder}"
            if run.plan.private:
                lines += (
                    f"\nepsilon {shown_epsilon(run.plan.epsilon)} covers what it has published and "
                    "the rest of its steps; an epsilon of fewer steps holds only if it was fixed "
                    "beforehand to stop there"
                )
            console.print(lines, soft_wrap=True)
        raise
    console.print(two_columns([*rows, ("page", str(folder.report))]))
    if evaluation.diverged:
        raise typer.Exit(USER_ERROR)


def _train(
    run: Run, console: Console, checkpoint: Checkpoint | None = None
) -> tuple[Evaluation, Rows]:
    """Train with progress bars; return the evaluation, and rows that state the result."""
    for name, value in [*run_rows(run), ("run folder", str(run.folder))]:
        console.print(f"{name}: {value}", soft_wrap=True)
    done, judged_on = checkpoint.step if checkpoint else 0, run.splits.judged_on
    with (
        counting_bar(console, "reading the public pool", "batches") as public,
        share_bar(console, "embedding views") as embedding,
        training_bar(console, run.plan, done, judged_on) as report,
    ):
        result = train_run(run, report, public, embedding, checkpoint)
    return result.evaluation, [
        *evaluation_rows(
            result.evaluation, judged_on, result.start_score if run.plan.steps else None
        ),
        *_test_row(run),
        *_plan_rows(run),
        *balance_rows(run.config),  # at the end: a private count is first written
        *pool_rows(run.pool_facts, pool_use(run)),
    ]


def _test_row(run: Run) -> Rows:
    """How to measure on the test images, where validation images took their place."""
    if run.splits.judged_on == "test":
        return []
    command = f"dpmix evaluate {run.folder} --data {run.config.data.data}"
    return [("test images", f"not looked at; to measure on them: {command}")]


def _plan_rows(run: Run) -> Rows:
    return plan_rows(run.plan, run.views.spec.method, run.config.run.seed, run.copies)
