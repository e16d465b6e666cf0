"""A picture of a class of the pool: up to 64 of its images on one sheet."""

import re
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image

from dpmix.atomic_files import stage
from dpmix.data.decode_pool import decode_batch
from dpmix.data.pixels import PixelForm
from dpmix.errors import DpmixError
from dpmix.public.pool_files import PoolFiles

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
