"""`dpmix predict`."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from dpmix.atomic_files import write_text
from dpmix.cli.console import stdout
from dpmix.data.corrupt import counted, nothing_left
from dpmix.device import choose_device
from dpmix.prediction import as_csv, as_json, check_output, image_files, predictions
from dpmix.saved import load_run


def predict(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    images: Annotated[list[Path], typer.Argument(help="image files, or folders of them")],
    output: Annotated[
        Path | None, typer.Option(help="file.csv or file.json; default: CSV on the screen")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace the output file if it is there")
    ] = False,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="leave out files that cannot be read")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
) -> None:
    """Classify images: a row each with the class and every class's probability.

    A file's name that is not plain text is written as a file: URI.
    """
    if output is not None:
        check_output(output, overwrite)
    saved = load_run(run, device)
    skipped: dict[Path, str] | None = {} if skip_corrupt else None
    rows = list(predictions(saved, image_files(images), choose_device(device), skipped))
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
