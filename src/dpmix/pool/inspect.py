"""What is in a pool: sizes, repeated images, corrupt ones; public images, so all may be shown.

Guarantee: every image is decoded once at its own size, and none is kept.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image

from dpmix.data.decode_pool import MAX_BYTES_IN_FLIGHT, EncodedImages, decode_batch
from dpmix.data.image import (
    MemoryBudget,
    PixelForm,
    UnreadableImageError,
    decode_pixels,
    opened,
    turned_upright,
)
from dpmix.data.upright import Remarks
from dpmix.errors import DpmixError
from dpmix.files import stage
from dpmix.pool.class_map import LEFT_OUT, UNLABELLED
from dpmix.pool.load import PoolFiles
from dpmix.pool.manifest import Manifest

# A picture of a class of the pool: up to 64 of its images on one sheet.


PER_SHEET = 64


COLUMNS = 8


TILE = 96


MARK = "CONTACT-SHEETS.txt"


def write_sheets(files: PoolFiles, folder: Path, leave_out: set[str]) -> Iterator[Path]:
    """Write `folder/<class>.png` for every class, evenly chosen over its images; yield each path.

    Args:
        files: the pool.
        folder: a new or empty one, or one of earlier sheets, which are replaced.
        leave_out: names of images that can't be read.

    Raises:
        DpmixError: `folder` lies in the pool, holds something else, or can't be written.
    """
    if folder.resolve().is_relative_to(files.path.resolve()):
        raise DpmixError(
            f"'{folder}' lies in the pool '{files.path}', whose files would no longer be the pool; "
            "give --sheets another folder"
        )
    mark = folder / MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not mark.exists() and any(folder.iterdir()):
            raise DpmixError(
                f"folder '{folder}' holds something else than contact sheets; give --sheets "
                "another folder"
            )
        mark.write_text("Contact sheets of a public pool, replaced by dpmix pool inspect.\n")
    except OSError as error:
        raise DpmixError(
            f"cannot make folder '{folder}' ({error.strerror}); give --sheets another folder"
        ) from None
    readable = [name not in leave_out for name in files.images.names]
    names = _file_names(files.class_names)
    for label, name in enumerate(names):
        members = (files.part.labels == label) & torch.tensor(readable)
        index = members.nonzero().flatten()
        if len(index):
            yield _write(files, index, folder / f"{name}.png")


def _write(files: PoolFiles, index: torch.Tensor, path: Path) -> Path:
    # Imported here: torchvision takes a second to load, and `--help` should not wait for it.
    from torchvision.utils import make_grid

    count = min(PER_SHEET, len(index))
    chosen = index[torch.linspace(0, len(index) - 1, count).round().long()].tolist()
    form = PixelForm((3, TILE, TILE), convert=True, resize=True, example="the sheet's tiles")
    tiles = decode_batch(files.images, chosen, form, None)
    grid = make_grid(tiles, nrow=min(COLUMNS, count), padding=4, pad_value=255)
    sheet = Image.fromarray(grid.permute(1, 2, 0).numpy())
    stage(path, lambda aside: sheet.save(aside, format="PNG")).replace(path)
    return path


def _file_names(class_names: tuple[str, ...]) -> list[str]:
    """The classes' names without what a path can't hold, short, and no two alike."""
    taken: set[str] = set()
    names = []
    for label, class_name in enumerate(class_names):
        name = re.sub(r"[^\w .,()-]", "_", class_name)[:80].rstrip(". ") or "_"
        if name.lower() in taken:
            name = f"{name}-{label}"
        taken.add(name.lower())
        names.append(name)
    return names


@dataclass(frozen=True)
class ImageFacts:
    """One image: (height, width), the sha256 of its RGB pixels, or why it can't be read."""

    size: tuple[int, int] | None
    pixels_sha256: bytes | None
    reason: str | None
    plain: bool = False


@dataclass(frozen=True)
class PoolInspection:
    """What a pool holds.

    Attributes:
        counts: images by class name, corrupt ones included.
        sizes: images by (height, width).
        repeated: groups of images with the same pixels, by name; the first of each is the one to
            keep.
        conflicting: how many of these groups span classes.
        corrupt: why, by image name.
        plain: images of one colour.
    """

    counts: dict[str, int]
    sizes: Counter[tuple[int, int]]
    repeated: tuple[tuple[str, ...], ...]
    conflicting: int
    corrupt: dict[str, str]
    plain: tuple[str, ...]


def inspect_pool(files: PoolFiles, report: Callable[[int, int], None]) -> PoolInspection:
    """Decode every image of a pool; `report` is told (images done, images in all).

    Raises:
        DpmixError: a file that vanished or may not be read.
    """
    images, labels = files.images, files.part.labels.tolist()
    budget = MemoryBudget(MAX_BYTES_IN_FLIGHT)
    facts: list[ImageFacts] = []
    remarks = Remarks()
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for one in workers.map(lambda i: _facts(images, i, budget, remarks), range(len(images))):
            facts.append(one)
            report(len(facts), len(images))
    remarks.warn()
    groups: dict[bytes, list[int]] = {}
    for index, one in enumerate(facts):
        if one.pixels_sha256 is not None:
            groups.setdefault(one.pixels_sha256, []).append(index)
    repeated = [group for group in groups.values() if len(group) > 1]
    named = Counter(files.class_names[label] for label in labels)
    return PoolInspection(
        counts={name: named[name] for name in files.class_names},
        sizes=Counter(one.size for one in facts if one.size is not None),
        repeated=tuple(tuple(images.names[i] for i in group) for group in repeated),
        conflicting=sum(len({labels[i] for i in group}) > 1 for group in repeated),
        corrupt={
            images.names[i]: one.reason for i, one in enumerate(facts) if one.reason is not None
        },
        plain=tuple(images.names[i] for i, one in enumerate(facts) if one.plain),
    )


def _facts(images: EncodedImages, index: int, budget: MemoryBudget, remarks: Remarks) -> ImageFacts:
    name = images.names[index]
    try:
        with images.open(index) as stream, opened(stream, name) as image:
            turned = turned_upright(image, name)
            size = (turned.height, turned.width)
        form = PixelForm((3, *size), convert=True, resize=False, example=name)
        with images.open(index) as stream:
            pixels = decode_pixels(stream, name, form, budget, remarks)
    except UnreadableImageError as error:
        return ImageFacts(None, None, str(error))
    except DpmixError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return ImageFacts(None, None, str(error))
    digest = sha256(repr(size).encode() + pixels.tobytes())
    plain = bool((pixels == pixels[:, :1, :1]).all())
    return ImageFacts(size, digest.digest(), None, plain)


# What the command line prints about a pool.


_SHOWN = 3


Rows = list[tuple[str, str]]


def inspection_rows(files: PoolFiles, found: PoolInspection) -> Rows:
    """Counts, sizes, repeats and corrupt files."""
    counts = found.counts.values()
    repeats = sum(len(group) - 1 for group in found.repeated)
    rows = [
        ("pool", str(files.path)),
        ("images", f"{sum(counts)} in {len(counts)} classes, {_range(min(counts), max(counts))}"),
        ("sizes", _sizes(found.sizes)),
        ("repeated", f"{repeats} images repeat another{_first(found)}" if repeats else "none"),
    ]
    if found.conflicting:
        rows.append(("conflicts", f"{found.conflicting} images are in more than one class"))
    if found.plain:
        rows.append(("OF ONE COLOUR", f"{len(found.plain)} images{_few(found.plain)}"))
    if found.corrupt:
        named = [f"{name} ({why})" for name, why in list(found.corrupt.items())[:_SHOWN]]
        more = ", ..." if len(found.corrupt) > _SHOWN else ""
        rows.append(("CORRUPT", f"{len(found.corrupt)}: {', '.join(named)}{more}"))
    return rows


def _few(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"


def _range(low: int, high: int) -> str:
    return f"{low} each" if low == high else f"{low} to {high} each"


def _first(found: PoolInspection) -> str:
    return f" (first: {found.repeated[0][1]} = {found.repeated[0][0]})"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    shown = [f"{height}x{width}: {count}" for (height, width), count in sizes.most_common(_SHOWN)]
    more = f", and {len(sizes) - _SHOWN} more sizes" if len(sizes) > _SHOWN else ""
    return ", ".join(shown) + more


def provenance_rows(manifest: Manifest | None, mismatch: str | None) -> Rows:
    """Where a pool comes from, as its manifest says; `mismatch` is how its files differ from it."""
    if manifest is None:
        return [("manifest", "none: nothing is known of where the images come from")]
    model = manifest.model
    dates = ", ".join(session.date for session in manifest.sessions)
    return [
        ("manifest", mismatch or f"matches all {len(manifest.images)} files (sha256); {dates}"),
        ("drawn by", f"{model.identity} ({model.pipeline}, {model.scheduler})"),
        ("licence", model.licence or "not stated"),
        ("template", str(manifest.settings.get("template"))),
        ("statement", manifest.statement),
    ]


def served_rows(found: PoolInspection, names: tuple[str, ...], targets: list[int]) -> Rows:
    """How many images serve each class of a data set; `targets` as `class_map` returns them."""
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
