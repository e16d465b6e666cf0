"""`.npz` files: arrays of pixels, or encoded images laid end to end.

Guarantee: nothing is ever unpickled.
"""

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.decode_pool import EncodedImages
from dpmix.data.image import ReadOptions, fit_images, in_eight_bits
from dpmix.data.npz_archive import Array, NpzArchive
from dpmix.data.source import TensorSource
from dpmix.data.split_names import Side, judged_side, named_sides, side_of
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError

# `.npz` files of JPEG or PNG bytes laid end to end: `train_jpeg, train_end, train_label`.


def encoded_splits(archive: NpzArchive, train: str, test: str, options: ReadOptions) -> Splits:
    """Read and decode the files of both splits, `train` and `test` as the file calls them.

    Raises:
        DpmixError: an array is missing or of another kind than expected, and as `decode_sources`
            raises.
    """
    parts = [encoded_part(archive, side) for side in (train, test)]
    names = archive.class_names(*(part.labels for part in parts))
    archive.refuse_gaps(*(part.labels for part in parts))
    (train_source, test_source), _ = decode_sources(parts, names, options)
    return Splits(archive.path.stem, train_source, test_source, flip=True)


def encoded_part(archive: NpzArchive, side: str) -> EncodedPart:
    """The encoded images `{side}_jpeg` and their labels.

    Raises:
        DpmixError: an array is missing or of another kind than expected.
    """
    key = f"{side}_jpeg"
    blob = archive.array(key)
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise DpmixError(
            f"{archive.path.name}: '{key}' is {blob.dtype} {list(blob.shape)}; "
            "expected uint8 bytes in one row"
        )
    ends = _ends(archive, f"{side}_end", len(blob))
    data = np.ascontiguousarray(blob).data
    spans = zip([0, *ends[:-1]], ends, strict=True)
    contents = tuple(data[start:end] for start, end in spans)
    images = EncodedImages(tuple(f"{key}[{i}]" for i in range(len(ends))), contents)
    return EncodedPart(images, archive.labels(f"{side}_label", len(ends)))


def _ends(archive: NpzArchive, name: str, size: int) -> list[int]:
    value = archive.array(name)
    if value.dtype.kind not in "iu" or value.ndim != 1 or not len(value):
        raise DpmixError(
            f"{archive.path.name}: '{name}' is {value.dtype} {list(value.shape)}; "
            "expected the end offset of every image, at least one"
        )
    ends: list[int] = value.tolist()
    if ends[0] <= 0 or any(b <= a for a, b in pairwise(ends)):
        raise DpmixError(
            f"{archive.path.name}: '{name}' does not increase; expected ascending end offsets"
        )
    if ends[-1] != size:
        raise DpmixError(
            f"{archive.path.name}: '{name}' ends at {ends[-1]} of {size} bytes; "
            "expected the last offset to be their number"
        )
    return ends


# `.npz` files of pixels: `x_train, y_train, x_test, y_test`, or named as MedMNIST's.


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


_ENCODED = "{}_jpeg"


LABELS_OF = {"x_{}": "y_{}", "X_{}": "y_{}", "{}_images": "{}_labels", _ENCODED: "{}_label"}


"""What arrays of images are called, {} in place of the split, and the labels next to them."""


def npz_splits(path: Path, options: ReadOptions) -> Splits:
    """Load `x_train, y_train, x_test, y_test`, or one of the other layouts of `LABELS_OF`.

    The splits may be called as `side_of` knows them. Class names come from `class_names`,
    `classes`, or `wnids` + `names`; without them classes are named by their number.

    Raises:
        DpmixError: the file is no `.npz`, an array is missing or of another kind than expected, it
            has two layouts, or an option does not apply.
    """
    with NpzArchive(path) as archive:
        images, sides = _layout(archive)
        train, test = sides["train"], judged_side(sides, path.name)
        if test is None:
            raise DpmixError(
                f"{path.name} has '{images.format(train)}' but neither '{images.format('test')}' "
                f"nor '{images.format('val')}'; expected a test split in the same layout: add one"
            )
        if images == _ENCODED:
            return encoded_splits(archive, train, test, options)
        return array_splits(archive, (images, LABELS_OF[images]), train, test, options)


def _layout(archive: NpzArchive) -> tuple[str, dict[Side, str]]:
    """The key of `LABELS_OF` that the file's arrays follow, and what its splits are called."""
    layouts = {key: sides for key in LABELS_OF if "train" in (sides := _sides(archive, key))}
    if not layouts:
        raise DpmixError(
            f"{archive.path.name} holds neither 'x_train' nor 'train_images' nor 'train_jpeg', "
            f"only: {', '.join(archive.names) or 'nothing'}; expected x_train, y_train, x_test, "
            "y_test"
        )
    if len(layouts) > 1:
        both = " and ".join(f"'{key.format(sides['train'])}'" for key, sides in layouts.items())
        raise DpmixError(
            f"{archive.path.name} has {both}; expected training images in one of them: save a "
            "file for each"
        )
    return layouts.popitem()


def _sides(archive: NpzArchive, key: str) -> dict[Side, str]:
    found = (re.fullmatch(key.format("(.+)"), name) for name in archive.names)
    return named_sides((one[1] for one in found if one and side_of(one[1])), archive.path.name)
