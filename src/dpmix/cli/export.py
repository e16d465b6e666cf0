"""`dpmix export`."""

from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import stdout


def export(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    output: Annotated[Path, typer.Option(help="folder to write")],
    format: Annotated[str, typer.Option(help="onnx, torch-export, hub")] = "onnx",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an earlier export")
    ] = False,
) -> None:
    """Write a trained model, backbone and all, in a form that other programs load.

    It takes images as uint8 [batch, C, H, W], not normalised, and gives logits. The privacy
    statement goes with it. What is written is loaded again and must answer as the run does.
    """
    # Imported here: nothing else on the command line needs torch's exporters.
    from dpmix.export import export_run

    console = stdout()
    console.print(f"writing the whole network as {format}, and comparing it with the run's ...")
    with console.status("half a minute for most networks, minutes for large ones"):
        exported = export_run(run, format, output, overwrite)
    console.print(f"{', '.join(exported.files)} in {output}")
    console.print(
        f"its logits on built-in digits are the run's (largest difference "
        f"{exported.difference:.1g})"
    )
    console.print(exported.guarantee)
