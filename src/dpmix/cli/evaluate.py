"""`dpmix evaluate`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import USER_ERROR, stdout
from dpmix.cli.progress import decoding_bar
from dpmix.device import choose_device
from dpmix.reporting.summary import evaluation_rows, two_columns
from dpmix.saved import load_run, test_source
from dpmix.training.evaluate import evaluate as measure
from dpmix.training.json_text import to_json


def evaluate(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    data: Annotated[
        str | None, typer.Option(help="other data with the same classes; default: the run's")
    ] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="share of test images, for a folder without splits")
    ] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="leave out unreadable images")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
) -> None:
    """Measure a trained model on a test split, or where it was tuned on its validation images.

    Such a run's test accuracy: give its data again, as --data.
    """
    console = stdout()
    saved = load_run(run, device)
    with decoding_bar(console) as decoding:
        source = test_source(saved, data, test_fraction, skip_corrupt, decoding)
    evaluation = measure(saved.model, source, saved.normalization, choose_device(device))
    if json:
        typer.echo(to_json(asdict(evaluation)))
        return
    classes = [(name, f"{share:.2%}") for name, share in evaluation.class_accuracy.items()]
    judged_on = saved.config.data.judged_on if data is None else "test"
    console.print(two_columns([*evaluation_rows(evaluation, judged_on), *classes]))
    if evaluation.diverged:
        raise typer.Exit(USER_ERROR)
