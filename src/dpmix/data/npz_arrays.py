"""`.npz` files of pixels: `x_train, y_train, x_test, y_test`, or named as MedMNIST's."""

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.eight_bits import in_eight_bits
from dpmix.data.fit import fit_images
from dpmix.data.npz_archive import Array, NpzArchive
from dpmix.data.options import ReadOptions
from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError

_CHANNELS = (1, 3)


def array_splits(
    archive: NpzArchive, keys: tuple[str, str], train: str, test: str, options: ReadOptions
) -> Splits:
    """Read uint8 images [N, H, W], [N, H, W, C] or [N, C, H, W], C in {1, 3}, and their labels.

    Args:
        archive: the file.
        keys: what its arrays of images and of labels are called, {} in place of the split.
        train: the split to train on, as the file calls it.
        test: the split to judge on.
        options: how images are read.

    Raises:
        DpmixError: an array is missing or of another kind than expected, or `skip_corrupt` is set:
            plain pixels cannot be corrupt.
    """
    if options.skip_corrupt:
        raise DpmixError(
            f"--skip-corrupt does not apply to {archive.path.name}: its pixels are not encoded; "
            "leave it out"
        )
    of_images, of_labels = keys
    images = {side: _images(archive, of_images.format(side), options) for side in (train, test)}
    labels = {side: archive.labels(of_labels.format(side), len(images[side])) for side in images}
    names = archive.class_names(*labels.values())
    archive.refuse_gaps(*labels.values())
    private, held_out = (TensorSource(images[side], labels[side], names) for side in images)
    return Splits(archive.path.stem, private, held_out, flip=True)


def _images(archive: NpzArchive, name: str, options: ReadOptions) -> UInt8[Tensor, "N C H W"]:
    value = archive.array(name)
    where = f"{archive.path.name}: '{name}'"
    if value.dtype != np.uint8:
        white = 1 if value.dtype.kind == "f" else 4095
        raise DpmixError(
            f"{where} is {value.dtype}; expected uint8 0..255: rescale it by a range that is fixed "
            f"beforehand, such as {in_eight_bits('x', white)} where {white} is white"
        )
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
