"""`dpmix synthesize` and `dpmix pool inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import stdout
from dpmix.cli.progress import counting_bar, decoding_bar
from dpmix.data.named import class_list
from dpmix.errors import DpmixError, nearest
from dpmix.pool.class_map import class_map
from dpmix.pool.diffusion_model import DTYPES, default_dtype, load_model
from dpmix.pool.generate import SynthesisSettings
from dpmix.pool.generate import synthesize as draw
from dpmix.pool.inspect import PER_SHEET, inspect_pool, inspection_rows, served_rows, write_sheets
from dpmix.pool.load import open_pool, refuse_private_path
from dpmix.pool.manifest import few_names
from dpmix.pool.prompts import as_classes, read_classes, template_text
from dpmix.reports.summary import two_columns
from dpmix.runs.network import choose_device

PoolPath = Annotated[Path, typer.Argument(help="a folder of class folders, or an .npz of JPEGs")]
PoolLabels = Annotated[
    Path | None, typer.Option(help="CSV of pool_class,class: what each pool class stands for")
]
PoolUnmapped = Annotated[
    str, typer.Option(help="for classes that match none: refuse, leave-out, unlabelled")
]

pool = typer.Typer(name="pool", help="Look at a public pool.")


@pool.command()
def inspect(
    path: PoolPath,
    sheets: Annotated[
        Path | None, typer.Option(help="folder for the contact sheets; default NAME-sheets")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="a data set whose classes to count; no image is read")
    ] = None,
    pool_labels: PoolLabels = None,
    pool_unmapped: PoolUnmapped = "refuse",
) -> None:
    """Show what is in a pool: classes, sizes, repeated and corrupt images, which model drew it.

    Draws a contact sheet (PNG) for each class. The images are public, so showing them is safe.
    """
    console = stdout()
    folder = sheets or Path(f"{path.resolve().stem}-sheets")
    if data is not None:
        refuse_private_path(path, Path(data).expanduser())
        refuse_private_path(folder, Path(data).expanduser(), "the folder of contact sheets")
    elif pool_labels is not None or pool_unmapped != "refuse":
        raise DpmixError("--pool-labels and --pool-unmapped need --data, whose classes they map to")
    files = open_pool(path, verify=False)
    if data is not None:
        names = class_list(data)
        targets = class_map(
            files.class_names, names, labels_csv=pool_labels, unmapped=pool_unmapped
        )
    with decoding_bar(console) as progress:
        found = inspect_pool(files, progress)
    drawn = len(write_sheets(files, folder, set(found.corrupt)))
    sheet = f"{folder}: {drawn} files, up to {PER_SHEET} images of a class each"
    rows = [*inspection_rows(files, found), ("contact sheets", sheet)]
    if data is not None:
        rows += served_rows(found, names, targets)
    console.print(two_columns(rows))
    console.print(two_columns([(name, str(count)) for name, count in found.counts.items()]))


def synthesize(
    model: Annotated[str, typer.Option(help="a diffusers pipeline: a folder, or a hub name")],
    output: Annotated[Path, typer.Option(help="folder of the pool; resumes one begun before")],
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="a class to draw; repeatable")
    ] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="text file with 'name' or 'name: phrase' on each line")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="a data set whose class names to take; no image is read")
    ] = None,
    template: Annotated[
        str, typer.Option(help="prompt with {class}, or: photo, eurosat, pet, scene, digit")
    ] = "photo",
    images_per_class: Annotated[int, typer.Option(min=1, help="images of each class")] = 100,
    draw_size: Annotated[
        int | None, typer.Option(min=1, help="height and width to draw; default: the model's own")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="height and width to save; default: as drawn")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="denoising steps; default: the model's own")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="guidance scale; default: the model's own")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="seed from which each image's is made")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="images drawn at a time")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16; auto: half precision on CUDA")
    ] = "auto",
    download: Annotated[
        bool, typer.Option("--download", help="fetch the model from the hub if it is not there")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="branch, tag or commit of a model on the hub")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="the model's licence; default: the one in its README")
    ] = None,
) -> None:
    """Draw a public pool with a diffusion model, from class names alone.

    If it stops, give the same command again to resume.

    `dpmix synthesize --model FOLDER --class cat --class dog --output pool`
    """
    console = stdout()
    if len([source for source in (class_, classes_file, data) if source]) != 1:
        raise DpmixError(
            "no class names, or more than one source of them; expected exactly one of --class "
            "(more than once), --classes-file and --data"
        )
    if classes_file:
        classes = read_classes(classes_file)
    else:
        classes = as_classes(tuple(class_) if class_ else class_list(str(data)))
    if data is not None:
        refuse_private_path(output, Path(data).expanduser())
    where = choose_device(device)
    kind = default_dtype(where) if dtype == "auto" else dtype
    if kind not in DTYPES:
        raise DpmixError(f"unknown dtype '{kind}': {nearest(kind, [*DTYPES, 'auto'])}")
    settings = SynthesisSettings(
        template_text(template), draw_size, image_size, steps, guidance, seed, kind
    )
    loaded = load_model(
        model, revision=revision, download=download, licence=licence, device=where,
        dtype=DTYPES[kind],
    )  # fmt: skip
    console.print(f"drawing: {few_names([one.prompt(settings.template) for one in classes])}")
    with counting_bar(console, "drawing images", "images") as progress:
        images, new = draw(
            output, loaded, classes, settings,
            images_per_class=images_per_class, batch=batch, progress=progress,
        )  # fmt: skip
    console.print(
        two_columns([
            ("pool", f"{output}: {images} images, {new} of them new"),
            ("drawn by", loaded.record.identity),
            ("look at it", f"dpmix pool inspect {output}"),
            ("use it", f"dpmix train --method mix-diff --pool {output} ..."),
        ])
    )  # fmt: skip
