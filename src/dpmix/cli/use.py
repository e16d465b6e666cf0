"""`dpmix evaluate`, `predict` and `export`: use a trained model."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import USER_ERROR, stdout
from dpmix.cli.progress import decoding_bar
from dpmix.data.decode import counted, nothing_left
from dpmix.files import to_json, write_text
from dpmix.reports.measured import group_tables
from dpmix.reports.summary import evaluation_rows, rows_under, terminal_percent, two_columns
from dpmix.runs.export import FORMATS, export_run
from dpmix.runs.load import evaluation_images, evaluation_in_full, load_run
from dpmix.runs.network import choose_device
from dpmix.runs.predict import as_csv, as_json, check_output, image_files, predictions
from dpmix.training.evaluate import evaluate as measure

_SKIP = "leave out images that cannot be read"


def evaluate(
    run: Annotated[Path, typer.Argument(help="a run's folder, or its model.safetensors")],
    data: Annotated[str | None, typer.Option(help="other data; default: the run's own")] = None,
    test_fraction: Annotated[
        float | None, typer.Option(help="share of test images, for a folder without splits")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="CSV of several labels for each file; default: the run's own")
    ] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help=_SKIP)] = False,
    subgroups: Annotated[
        str | None, typer.Option(help="CSV of file and columns of groups; default: the run's own")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
) -> None:
    """Measure a trained model on test images, with intervals.

    A run with --validation-fraction is measured on its validation images; for its test accuracy,
    give its data again as --data.
    """
    console = stdout()
    saved = load_run(run, device)
    with decoding_bar(console) as decoding:
        source = evaluation_images(saved, data, test_fraction, labels, skip_corrupt, decoding)
    in_full = evaluation_in_full(saved, data, subgroups, source)
    evaluation = measure(saved.model, source, saved.normalization, choose_device(device), in_full)
    if json:
        typer.echo(to_json(asdict(evaluation)))
        return
    classes = [(name, f"{share:.2%}") for name, share in evaluation.class_scores.items()]
    judged_on = saved.config.data.judged_on if data is None else "test"
    console.print(two_columns([*evaluation_rows(evaluation, judged_on), *classes]))
    for table in group_tables(evaluation, terminal_percent):
        console.print(rows_under(table.header, table.rows))
    if evaluation.diverged:
        raise typer.Exit(USER_ERROR)


def predict(
    run: Annotated[Path, typer.Argument(help="a run's folder, or its model.safetensors")],
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    output: Annotated[Path | None, typer.Option(help="file.csv or .json; default: print")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the output file")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="probability from which the second class, or a label, is predicted; "
            "default: what the run chose on validation images, else 0.5"
        ),
    ] = None,
    skip_corrupt: Annotated[bool, typer.Option("--skip-corrupt", help=_SKIP)] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
) -> None:
    """Classify images: one row per image, with its class and the probability of every class.

    Where an image can have several labels, they are joined by ";". A file name that is not plain
    text is written as a file: URI.
    """
    if output is not None:
        check_output(output, overwrite)
    saved = load_run(run, device)
    skipped: dict[Path, str] | None = {} if skip_corrupt else None
    files, where = image_files(images), choose_device(device)
    rows = list(predictions(saved, files, where, skipped, threshold))
    if skipped:
        reasons = {str(path): reason for path, reason in skipped.items()}
        if not rows:
            raise nothing_left(reasons)
        warnings.warn(f"left out: {counted(reasons)}", stacklevel=2)
    if output is None:
        typer.echo(as_csv(rows, saved.input.class_names).encode(), nl=False)
        return
    form = as_json if output.suffix == ".json" else as_csv
    write_text(output, form(rows, saved.input.class_names))
    stdout().print(f"{len(rows)} predictions in {output}")


def export(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    output: Annotated[Path, typer.Option(help="folder to write")],
    format: Annotated[str, typer.Option(help="onnx or hub")] = "onnx",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an export")] = False,
) -> None:
    """Write a trained model, with its backbone, in a form that other programs load.

    It takes images as uint8 [batch, C, H, W], not normalised, and gives logits. The privacy
    statement goes with it. A graph is checked to give the run's own answers.
    """
    console = stdout()
    console.print(f"writing the whole network as {format} ...")
    with console.status("half a minute for most networks, minutes for large ones"):
        guarantee = export_run(run, format, output, overwrite)
    console.print(f"{', '.join(FORMATS[format])} in {output}")
    console.print(guarantee)
