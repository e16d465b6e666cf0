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


def write_sheets(files: PoolFiles, folder: Path, leave_out: set[str]) -> Iterator[Path]:
    """Write `folder/<class>.png` for every class, evenly chosen over its images; yield each path.

    Args:
        files: the pool.
        folder: made if need be; sheets of the same name are replaced.
        leave_out: names of images that can't be read.

    Raises:
        DpmixError: `folder` lies in the pool or can't be written.
    """
    if folder.resolve().is_relative_to(files.path.resolve()):
        raise DpmixError(
            f"'{folder}' lies in the pool '{files.path}', whose files would no longer be the pool; "
            "give --sheets another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DpmixError(
            f"cannot make folder '{folder}' ({error.strerror}); give --sheets another folder"
        ) from None
    readable = [name not in leave_out for name in files.images.names]
    for label, name in enumerate(files.class_names):
        members = (files.part.labels == label) & torch.tensor(readable)
        index = members.nonzero().flatten()
        if len(index):
            yield _write(files, index, folder / f"{_file_name(name)}.png")


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


def _file_name(class_name: str) -> str:
    """The class's name without what a path can't hold, at a length that every system takes."""
    return re.sub(r"[^\w .,()-]", "_", class_name)[:80].rstrip(". ") or "_"
