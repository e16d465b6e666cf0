"""Image files to predict on, streamed in a model's own form.

Guarantees: batches come in the order of the paths and hold a bounded number of pixels, whatever
the number of files.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.decode_pool import decode_batch
from dpmix.data.encoded import EncodedImages
from dpmix.data.pixels import READING, PixelForm, Reading
from dpmix.data.upright import Remarks

_MAX_BATCH = 256
_MAX_BATCH_BYTES = 64 * 2**20


def decode_files(
    paths: Sequence[Path],
    shape: tuple[int, int, int],
    reading: Reading = READING,
    workers: int | None = None,
) -> Iterator[UInt8[Tensor, "B C H W"]]:
    """Yield the images at `paths` in batches, each upright, fitted and converted to `shape`.

    Args:
        paths: image files; the concatenated batches follow their order.
        shape: the model's (C, H, W).
        reading: the rule that the model was trained by, as its run's settings record it.
        workers: decoding threads; None: one per core.

    Warns, after the last batch, of files of several frames and of tags that can't be read.

    Raises:
        DpmixError: a file that is missing, corrupt or of more than 8 bits a channel.
    """
    images = EncodedImages(tuple(map(str, paths)), tuple(paths))
    form = PixelForm(shape, convert=True, resize=True, example="the model's input", reading=reading)
    remarks = Remarks()
    size = max(1, min(_MAX_BATCH, _MAX_BATCH_BYTES // int(np.prod(shape))))
    for start in range(0, len(images), size):
        batch = range(start, min(start + size, len(images)))
        yield decode_batch(images, batch, form, workers, remarks)
    remarks.warn()
