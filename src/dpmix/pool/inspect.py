"""What is in a pool: sizes, repeated images, corrupt ones, and pictures of its classes.

The images are public, so all of them may be shown.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.image import ReadOptions, decode_pixels
from dpmix.data.source import pixel_digest
from dpmix.errors import DpmixError
from dpmix.files import stage
from dpmix.pool.class_map import LEFT_OUT, UNLABELLED
from dpmix.pool.load import PoolFiles
from dpmix.pool.manifest import few_names

PER_SHEET, COLUMNS, TILE = 64, 8, 96
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class PoolInspection:
    """What a pool holds."""

    counts: dict[str, int]  # images by class name, corrupt ones included
    sizes: Counter[tuple[int, int]]  # images by (height, width)
    repeated: list[list[str]]  # names of images with the same pixels
    conflicting: int  # how many of these groups span classes
    corrupt: dict[str, str]  # why an image can't be used, by its name
    plain: list[str]  # names of images of one colour


def inspect_pool(files: PoolFiles, progress: Callable[[int, int], None]) -> PoolInspection:
    """Decode every image of a pool; `progress` is called with (images done, images in all)."""
    images = files.images
    sizes: Counter[tuple[int, int]] = Counter()
    groups: dict[object, list[int]] = defaultdict(list)
    corrupt, plain = {}, []
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        found = workers.map(lambda i: _look_at(images, i), range(len(images)))
        for index, seen in enumerate(found):
            name = images.names[index]
            if isinstance(seen, str):
                corrupt[name] = seen
            else:
                size, digest, one_colour = seen
                sizes[size] += 1
                groups[size, digest].append(index)
                if one_colour:
                    plain.append(name)
            progress(index + 1, len(images))
    repeated = [group for group in groups.values() if len(group) > 1]
    counts = torch.bincount(images.labels, minlength=len(files.class_names)).tolist()
    return PoolInspection(
        counts=dict(zip(files.class_names, counts, strict=True)),
        sizes=sizes,
        repeated=[[images.names[i] for i in group] for group in repeated],
        conflicting=sum(len(images.labels[group].unique()) > 1 for group in repeated),
        corrupt=corrupt,
        plain=plain,
    )


def _look_at(images: EncodedImages, index: int) -> tuple[tuple[int, int], bytes, bool] | str:
    """(height, width), digest of the RGB pixels and whether they are one colour; or a fault."""
    name = images.names[index]
    try:
        with images.open(index) as stream:
            pixels = decode_pixels(stream, name, ReadOptions(channels=3))
    except DpmixError as error:
        return str(error)
    one_colour = bool((pixels == pixels[:, :1, :1]).all())
    return (pixels.shape[1], pixels.shape[2]), pixel_digest(pixels), one_colour


def write_sheets(files: PoolFiles, folder: Path, leave_out: set[str]) -> list[Path]:
    """Write `folder/sheet-NNN-<class>.png` for every class: up to 64 images, evenly chosen over it.

    Args:
        files: the pool.
        folder: a new or empty one outside the pool, or one of earlier sheets, which are replaced.
        leave_out: names of images that can't be read.

    Returns:
        The paths of the sheets.
    """
    if folder.resolve().is_relative_to(files.path.resolve()):
        raise DpmixError(
            f"'{folder}' lies in the pool '{files.path}'; give --sheets another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DpmixError(
            f"cannot make folder '{folder}' ({error.strerror}); give --sheets another folder"
        ) from None
    if not all(re.fullmatch(r"sheet-\d+-.*\.png", entry.name) for entry in folder.iterdir()):
        raise DpmixError(
            f"folder '{folder}' holds something other than contact sheets; give --sheets another "
            "folder"
        )
    readable = torch.tensor([name not in leave_out for name in files.images.names])
    paths = []
    for label, class_name in enumerate(files.class_names):
        index = ((files.images.labels == label) & readable).nonzero().flatten()
        if len(index):
            # Short, and without what a path can't hold on some system.
            name = re.sub(r"[^\w .,()-]", "_", class_name)[:80].rstrip(". ")
            paths.append(folder / f"sheet-{label:03}-{name}.png")
            _write_sheet(files, index, paths[-1])
    return paths


def _write_sheet(files: PoolFiles, index: torch.Tensor, path: Path) -> None:
    # Imported here: torchvision takes a second to load, and `--help` should not wait for it.
    from torchvision.utils import make_grid

    count = min(PER_SHEET, len(index))
    chosen = files.images.take(index[torch.linspace(0, len(index) - 1, count).round().long()])
    (tiles,), _ = decode_sources([chosen], files.class_names, ReadOptions(TILE, 3))
    pixels = tiles.images(torch.arange(count))
    grid = make_grid(pixels, nrow=min(COLUMNS, count), padding=4, pad_value=255)
    sheet = Image.fromarray(grid.permute(1, 2, 0).numpy())
    stage(path, lambda aside: sheet.save(aside, format="PNG")).replace(path)


def inspection_rows(files: PoolFiles, found: PoolInspection) -> Rows:
    """Counts, sizes, repeats and corrupt files, and where the pool comes from."""
    sizes = [f"{height}x{width}: {n}" for (height, width), n in found.sizes.most_common()]
    rows = [
        ("pool", str(files.path)),
        ("images", f"{len(files.images)} in {len(found.counts)} classes"),
        ("sizes", few_names(sizes)),
    ]
    if found.repeated:
        number = sum(len(group) - 1 for group in found.repeated)
        first = " = ".join(found.repeated[0][:2])
        rows.append(("repeated", f"{number} images repeat another (first: {first})"))
    if found.conflicting:
        rows.append(("conflicts", f"{found.conflicting} images are in more than one class"))
    if found.plain:
        rows.append(("OF ONE COLOUR", f"{len(found.plain)} images ({few_names(found.plain)})"))
    if found.corrupt:
        named = few_names([f"{name} ({why})" for name, why in found.corrupt.items()])
        rows.append(("CORRUPT", f"{len(found.corrupt)}: {named}"))
    manifest = files.manifest
    if manifest is None:
        return [*rows, ("manifest", "none: nothing is known about where the images come from")]
    matches = f"matches all {len(manifest.images)} files (sha256); {manifest.date}"
    try:
        manifest.verify(files.path, files.images.names)
    except DpmixError as error:  # a refusal in training, and here something to see
        matches = str(error)
    model = manifest.model
    return [
        *rows,
        ("manifest", matches),
        ("drawn by", f"{model.identity} ({model.pipeline}, {model.scheduler})"),
        ("licence", model.licence or "not stated"),
        ("template", str(manifest.settings.get("template"))),
        ("statement", manifest.statement),
    ]


def served_rows(found: PoolInspection, names: tuple[str, ...], targets: list[int]) -> Rows:
    """How many images the classes `names` of a data set get; `targets` are those of `class_map`."""
    images: Counter[int] = Counter()
    for count, target in zip(found.counts.values(), targets, strict=True):
        images[target] += count
    listed = ", ".join(f"{name} {images[label]}" for label, name in enumerate(names))
    rows = [("for your classes", listed)]
    if images[UNLABELLED]:
        rows.append(("unlabelled", f"{images[UNLABELLED]}, with a uniform soft label"))
    if images[LEFT_OUT]:
        rows.append(("left out", str(images[LEFT_OUT])))
    return rows
