"""`dpmix synthesize`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpmix.cli.progress import counting_bar, decoding_bar, stdout
from dpmix.data.named import class_list
from dpmix.errors import DpmixError, nearest
from dpmix.pool.class_map import class_map
from dpmix.pool.diffusion_model import DTYPES, default_dtype, image_generator, load_model
from dpmix.pool.generate import SynthesisSettings
from dpmix.pool.generate import synthesize as draw
from dpmix.pool.inspect import (
    PER_SHEET,
    inspect_pool,
    inspection_rows,
    provenance_rows,
    served_rows,
    write_sheets,
)
from dpmix.pool.load import PoolFiles, open_pool
from dpmix.pool.overlap import refuse_private_path
from dpmix.pool.prompts import PoolClass, as_classes, read_classes, template_text
from dpmix.reports.summary import two_columns
from dpmix.runs.build import choose_device

# `dpmix pool inspect`.


pool = typer.Typer(name="pool", help="Look at a public pool.")


PoolPath = Annotated[
    Path, typer.Argument(help="the pool: a folder of class folders, or an .npz of JPEGs")
]


Labels = Annotated[
    Path | None,
    typer.Option("--pool-labels", help="CSV of pool_class,class: which class each stands for"),
]


Unmapped = Annotated[
    str,
    typer.Option(
        "--pool-unmapped", help="for classes that match none: refuse, leave-out, unlabelled"
    ),
]


@pool.command()
def inspect(
    path: PoolPath,
    sheets: Annotated[
        Path | None,
        typer.Option(help="folder for the contact sheets; default NAME-sheets"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="a data set, to count images for each of its classes; no image is read"),
    ] = None,
    pool_labels: Labels = None,
    pool_unmapped: Unmapped = "refuse",
) -> None:
    """Show what is in a pool: classes, sizes, repeated and corrupt images, who drew it.

    Draws a contact sheet (PNG) for each class. The images are public, so showing them is safe.
    """
    console = stdout()
    folder = sheets or Path(f"{path.resolve().stem}-sheets")
    if data is not None:
        private = Path(data).expanduser()
        refuse_private_path(path, private)
        refuse_private_path(folder, private, "the folder of contact sheets")
    files = open_pool(path, verify=False)
    served = None
    if data is not None:
        names = class_list(data)
        served = (
            names,
            class_map(files.class_names, names, labels_csv=pool_labels, unmapped=pool_unmapped),
        )
    elif pool_labels is not None or pool_unmapped != "refuse":
        raise DpmixError("--pool-labels and --pool-unmapped need --data, whose classes they map to")
    with decoding_bar(console) as report:
        found = inspect_pool(files, report)
    drawn = sum(1 for _ in write_sheets(files, folder, set(found.corrupt)))
    rows = [
        *inspection_rows(files, found),
        *provenance_rows(files.manifest, _mismatch(files)),
        ("contact sheets", f"{folder}: {drawn} files, up to {PER_SHEET} images of a class each"),
        *(served_rows(found, *served) if served else []),
    ]
    console.print(two_columns(rows))
    table = Table("class", "images", box=None, pad_edge=False)
    for name, count in found.counts.items():
        table.add_row(name, str(count))
    console.print(table)


def _mismatch(files: PoolFiles) -> str | None:
    """How a pool differs from its manifest: here something to see, in training a refusal."""
    try:
        if files.manifest is not None:
            files.manifest.verify(files.path, files.images.names)
    except DpmixError as error:
        return str(error)
    return None


PROMPTS_SHOWN = 3


def synthesize(
    model: Annotated[
        str, typer.Option(help="a diffusers pipeline: a folder, or a hub name such as owner/name")
    ],
    output: Annotated[Path, typer.Option(help="folder of the pool; goes on with one begun before")],
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="a class to draw; repeatable")
    ] = None,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            help="text file, a class a line: 'name', or 'name: phrase' for the prompt; for a "
            "class-conditional model the phrase is its label, or '#281', its number"
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="a data set whose class names to take; no image is read")
    ] = None,
    template: Annotated[
        str,
        typer.Option(help="prompt with {class}, or its name: photo, eurosat, pet, scene, digit"),
    ] = "photo",
    images_per_class: Annotated[int, typer.Option(help="images of each class")] = 100,
    draw_size: Annotated[
        int | None, typer.Option(help="pixels a side to draw; default: the model's own")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="pixels a side to save; default: as drawn")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="denoising steps; default: the model's own")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="guidance scale; default: the model's own")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the pool; every image has its own from it")] = 0,
    batch: Annotated[int, typer.Option(help="images drawn at a time")] = 4,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="float32, float16, bfloat16; auto: half precision on CUDA alone")
    ] = "auto",
    attention_slicing: Annotated[
        bool, typer.Option("--attention-slicing", help="less memory, slower")
    ] = False,
    download: Annotated[
        bool, typer.Option("--download", help="fetch the model from the hub if it is not there")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="branch, tag or commit of a model on the hub")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="of the model; default: as its README says")
    ] = None,
) -> None:
    """Draw a public pool with a diffusion model, from class names alone.

    Stopped, it goes on where it was when the same command is given again.

    `dpmix synthesize --model FOLDER --class cat --class dog --output pool`
    """
    console = stdout()
    classes = _classes(class_, classes_file, data)
    if data is not None:
        refuse_private_path(output, Path(data).expanduser())
    text = template_text(template)
    where = choose_device(device)
    kind = default_dtype(where) if dtype == "auto" else dtype
    if kind not in DTYPES:
        raise DpmixError(f"unknown dtype '{kind}': {nearest(kind, [*DTYPES, 'auto'])}")
    settings = SynthesisSettings(text, draw_size, image_size, steps, guidance, seed, kind)
    loaded = load_model(
        model,
        revision=revision,
        download=download,
        licence=licence,
        device=where,
        dtype=DTYPES[kind],
        attention_slicing=attention_slicing,
    )
    hand = image_generator(
        loaded, classes, template=text, size=draw_size, steps=steps, guidance=guidance
    )  # fmt: skip
    told = [hand.describe(one) for one in classes]
    more = f" and {len(told) - PROMPTS_SHOWN} more" if len(told) > PROMPTS_SHOWN else ""
    console.print(f"drawing: {'; '.join(told[:PROMPTS_SHOWN])}{more}")
    with counting_bar(console, "drawing images", "images") as report:
        drawn = draw(
            output, hand, classes, settings,
            images_per_class=images_per_class, batch=batch, report=report,
        )  # fmt: skip
    rate = f", {drawn.fresh / drawn.seconds:.2f} images/s" if drawn.fresh else ""
    console.print(
        two_columns(
            [
                ("pool", f"{output}: {drawn.images} images, {drawn.fresh} of them new{rate}"),
                ("drawn by", loaded.record.identity),
                ("look at it", f"dpmix pool inspect {output}"),
                ("use it", f"dpmix train --method mix-diff --pool {output} ..."),
            ]
        )
    )


def _classes(
    names: list[str] | None, classes_file: Path | None, data: str | None
) -> tuple[PoolClass, ...]:
    given = [source for source in (names, classes_file, data) if source]
    if len(given) != 1:
        raise DpmixError(
            f"{len(given)} sources of class names given; expected exactly one of --class (more "
            "than once), --classes-file and --data"
        )
    if names:
        return as_classes(tuple(names))
    return read_classes(classes_file) if classes_file else as_classes(class_list(str(data)))
