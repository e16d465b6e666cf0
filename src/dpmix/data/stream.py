"""Image files to predict on, streamed in a model's own form.

Guarantees: batches come in the order of the paths and hold a bounded number of pixels, whatever
the number of files; every file that cannot be read is found.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.corrupt import corrupt_error
from dpmix.data.decode_pool import decode_in_order
from dpmix.data.encoded import EncodedImages
from dpmix.data.pixels import READING, PixelForm, Reading, UnreadableImageError
from dpmix.data.upright import Remarks

_MAX_BATCH = 256
_MAX_BATCH_BYTES = 64 * 2**20


def decode_files(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    reading: Reading = READING,
    workers: int | None = None,
    *,
    skipped: dict[Path, str] | None = None,
) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """Yield the images at `paths` in batches, each upright, fitted and converted to `shape`.

    Args:
        paths: image files; the concatenated batches follow their order.
        shape: the model's (C, H, W).
        reading: the rule that the model was trained by, as its run's settings record it.
        workers: decoding threads; None: one per core.
        skipped: gets the files that cannot be read, each with the reason; the batches are without
            them. None refuses such files: all are named, once every file was tried.

    Warns, after the last batch, of files of several frames and of tags that can't be read.

    Raises:
        DpmixError: files that are missing, corrupt or of more than 8 bits a channel, unless
            `skipped` is given.
    """
    images = EncodedImages(tuple(map(str, paths)), tuple(paths))
    form = PixelForm(shape, convert=True, resize=True, example="the model's input", reading=reading)
    remarks = Remarks()
    size = max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // int(np.prod(shape))))
    bad: dict[Path, str] = {} if skipped is None else skipped
    for start in range(0, len(images), size):
        batch, good = range(start, min(start + size, len(images))), []
        groups = decode_in_order(images, batch, form, workers, remarks, refused_too=True)
        decoded = (one for group in groups for one in group)
        for index, pixels in zip(batch, decoded, strict=True):
            if isinstance(pixels, UnreadableImageError):
                bad[paths[index]] = _reason(pixels, paths[index])
            else:
                good.append(pixels)
        if good and (skipped is not None or not bad):
            yield torch.from_numpy(np.stack(good))
    remarks.warn()
    if bad and skipped is None:
        raise corrupt_error({str(path): reason for path, reason in bad.items()})


def _reason(error: UnreadableImageError, path: Path) -> str:
    """What is wrong, without the file's name and the remedy, which are said once for all."""
    return str(error).removeprefix(f"image '{path}' ").partition("; ")[0]
