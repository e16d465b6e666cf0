"""A pool's pixels as one uint8 tensor: in memory, or mapped from a temporary file when too many."""

import tempfile

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.source import ImageSource, TensorSource
from dpmix.errors import DpmixError

_BATCH = 1024


def stored_pixels(source: ImageSource) -> UInt8[Tensor, "P C H W"]:
    """All images of `source`.

    A source that is already decoded in memory gives its tensor. A larger one (`decode_sources`
    draws the line) is decoded once into a nameless file in the folder for temporary files, which
    vanishes with the process; drawing some images then reads those alone.

    Raises:
        DpmixError: no space for the file.
    """
    if isinstance(source, TensorSource):
        return source.pixels
    shape = (len(source), *source.image_shape)
    # Written, not assigned through the map: a full disk is then an error and not a crash.
    with tempfile.TemporaryFile() as file:
        try:
            for index in torch.arange(len(source)).split(_BATCH):
                file.write(source.images(index).numpy().tobytes())
            file.flush()
        except OSError as error:
            raise DpmixError(
                f"the public pool's {np.prod(shape) / 2**30:.1f} GiB of pixels do not fit in "
                f"'{tempfile.gettempdir()}' ({error.strerror}); free some space, or set TMPDIR"
            ) from None
        # Copy-on-write: torch has no read-only tensors.
        return torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c", shape=shape))
