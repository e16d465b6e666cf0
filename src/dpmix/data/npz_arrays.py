"""`.npz` files of pixels: `x_train, y_train, x_test, y_test`."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.fit import fit_images
from dpmix.data.npz_archive import Array, NpzArchive
from dpmix.data.options import ReadOptions
from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError

_CHANNELS = (1, 3)


def array_splits(archive: NpzArchive, options: ReadOptions) -> Splits:
    """Read uint8 images [N, H, W], [N, H, W, C] or [N, C, H, W], C in {1, 3}, and their labels.

    Raises:
        DpmixError: an array is missing or of another kind than expected, or `skip_corrupt` is set:
            plain pixels cannot be corrupt.
    """
    if options.skip_corrupt:
        raise DpmixError(
            f"--skip-corrupt does not apply to {archive.path.name}: its pixels are not encoded; "
            "leave it out"
        )
    images = {side: _images(archive, f"x_{side}", options) for side in ("train", "test")}
    labels = {side: archive.labels(f"y_{side}", len(images[side])) for side in images}
    names = archive.class_names(*labels.values())
    train, test = (TensorSource(images[side], labels[side], names) for side in images)
    return Splits(archive.path.stem, train, test, flip=True)


def _images(archive: NpzArchive, name: str, options: ReadOptions) -> UInt8[Tensor, "N C H W"]:
    value = archive.array(name)
    where = f"{archive.path.name}: '{name}'"
    if value.dtype != np.uint8:
        raise DpmixError(f"{where} is {value.dtype}; expected uint8 0..255: rescale it first")
    if 0 in value.shape:
        raise DpmixError(f"{where} has shape {list(value.shape)}; expected at least one image")
    pixels = np.ascontiguousarray(_channels_first(value, where))
    return fit_images(torch.from_numpy(pixels), options)


def _channels_first(value: Array, where: str) -> Array:
    if value.ndim == 3:
        return value[:, None]
    first = value.ndim == 4 and value.shape[1] in _CHANNELS
    last = value.ndim == 4 and value.shape[3] in _CHANNELS
    if first == last:
        raise DpmixError(
            f"{where} has shape {list(value.shape)}; expected [N, H, W], [N, H, W, C] or "
            "[N, C, H, W] where C, and nothing in its stead, is 1 or 3"
        )
    return value if first else value.transpose(0, 3, 1, 2)
