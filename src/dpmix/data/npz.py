"""`.npz` files: arrays of pixels, or encoded images laid end to end; nothing is ever unpickled."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.image import ReadOptions, fit_images, in_eight_bits
from dpmix.data.source import ImageSource, TensorSource
from dpmix.data.splits import Side, Splits, judged_side, named_sides, plain_name, side_of
from dpmix.errors import DpmixError

Array = np.ndarray[Any, np.dtype[Any]]

_ENCODED = "{}_jpeg"
_LABELS = {"x_{}": "y_{}", "X_{}": "y_{}", "{}_images": "{}_labels", _ENCODED: "{}_label"}
"""The arrays of images and of labels in each layout; {} stands for the split's name."""


def is_npz(path: Path) -> bool:
    """Whether `path` is that of an `.npz` file, by its suffix in any case."""
    return path.suffix.lower() == ".npz"


def npz_splits(path: Path, options: ReadOptions) -> Splits:
    """Load `x_train, y_train, x_test, y_test`, or the same in one of these layouts.

    MedMNIST's `train_images, train_labels`; or JPEG or PNG bytes laid end to end as `train_jpeg`,
    with the end of every image as `train_end` and labels as `train_label`. `side_of` says how the
    splits may be called. Images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], C in {1, 3}.
    Class names come from `class_names`, `classes` or `names`; without, they are the numbers.

    Raises:
        DpmixError: the file is no `.npz`, an array is missing or of another kind than expected, two
            layouts in one file, `skip_corrupt` for plain pixels, and as `decode_sources` raises.
    """
    archive = NpzArchive(path)
    layouts: dict[str, dict[Side, str]] = {}
    for images in _LABELS:
        matches = (re.fullmatch(images.format("(.+)"), name) for name in archive.names)
        sides = named_sides((one[1] for one in matches if one and side_of(one[1])), path.name)
        if "train" in sides:
            layouts[images] = sides
    if not layouts:
        raise DpmixError(
            f"{path.name} holds neither 'x_train' nor 'train_images' nor 'train_jpeg', only: "
            f"{', '.join(archive.names) or 'nothing'}; expected x_train, y_train, x_test, y_test"
        )
    if len(layouts) > 1:
        both = " and ".join(f"'{images.format(layouts[images]['train'])}'" for images in layouts)
        raise DpmixError(
            f"{path.name} has {both}; expected training images in one of them: save a file for each"
        )
    images, sides = layouts.popitem()
    test = judged_side(sides, path.name)
    if test is None:
        raise DpmixError(
            f"{path.name} has '{images.format(sides['train'])}' but neither "
            f"'{images.format('test')}' nor '{images.format('val')}'; expected a test split in the "
            "same layout: add one"
        )
    return archive.splits(images, (sides["train"], test), options)


class NpzArchive:
    """The arrays of an `.npz` file, each read when it is asked for.

    Attributes:
        path: of the file.
        names: of its arrays.

    Raises:
        DpmixError: the file is missing, unreadable or no `.npz`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as stored:
                self.names = list(stored.files)
        except OSError as error:
            raise DpmixError(
                f"data file '{path}' cannot be read ({error.strerror}); expected a readable .npz "
                "file: check the path"
            ) from error
        # What begins like a zip file can still be anything.
        except Exception as error:
            raise DpmixError(
                f"{path.name} is not an .npz file, or is cut short; expected one written by "
                "numpy.savez"
            ) from error

    def splits(self, images: str, sides: tuple[str, str], options: ReadOptions) -> Splits:
        """Read the splits `sides`, to train on and to judge on, in the layout `images`."""
        train: ImageSource
        test: ImageSource
        if images == _ENCODED:
            parts = [self.encoded(side) for side in sides]
            names = self._refuse_gaps([part.labels for part in parts])
            (train, test), _ = decode_sources(parts, names, options)
            return Splits(self.path.stem, train, test, flip=True)
        if options.skip_corrupt:
            raise DpmixError(
                f"--skip-corrupt does not apply to {self.path.name}: its pixels are not encoded; "
                "leave it out"
            )
        pixels = [fit_images(self._pixels(images.format(side)), options) for side in sides]
        keys = (_LABELS[images].format(side) for side in sides)
        labels = [self._labels(key, len(part)) for key, part in zip(keys, pixels, strict=True)]
        names = self._refuse_gaps(labels)
        train, test = (TensorSource(*part, names) for part in zip(pixels, labels, strict=True))
        return Splits(self.path.stem, train, test, flip=True)

    def encoded(self, side: str) -> EncodedImages:
        """Return the encoded images `{side}_jpeg` and their labels."""
        key = _ENCODED.format(side)
        blob = self._array(key)
        if blob.dtype != np.uint8 or blob.ndim != 1:
            raise self._other(key, blob, "uint8 bytes in one row")
        ends = self._array(f"{side}_end")
        if ends.dtype.kind not in "iu" or ends.ndim != 1 or not len(ends):
            raise self._other(f"{side}_end", ends, "the end offset of every image, at least one")
        spans = list(pairwise([0, *ends.tolist()]))
        if any(start >= end for start, end in spans) or spans[-1][1] != len(blob):
            raise DpmixError(
                f"{self.path.name}: '{side}_end' ends at {spans[-1][1]} of {len(blob)} bytes, or "
                "does not increase; expected ascending end offsets, the last the number of bytes"
            )
        data = np.ascontiguousarray(blob).data
        return EncodedImages(
            tuple(f"{key}[{i}]" for i in range(len(spans))),
            tuple(data[start:end] for start, end in spans),
            self._labels(f"{side}_label", len(spans)),
        )

    def class_names(self, *labels: Int64[Tensor, " _"]) -> tuple[str, ...]:
        """Return the file's class names, or numbers up to the largest of `labels`."""
        highest = max((int(part.max()) for part in labels if len(part)), default=-1)
        key = next((key for key in ("class_names", "classes", "names") if key in self.names), None)
        if key is None:
            if highest >= sum(map(len, labels)):
                raise self._gap(f"label {highest} is beyond the number of images")
            return tuple(map(str, range(highest + 1)))
        value = self._array(key)
        if value.dtype.kind != "U" or value.ndim != 1:
            raise self._other(key, value, "a list of text, one name per class")
        if highest >= len(value):
            if lowest := min(int(part.min()) for part in labels if len(part)):
                raise self._starts_at(lowest)
            raise DpmixError(
                f"{self.path.name}: label {highest} is out of range; expected 0..{len(value) - 1}, "
                f"one for each name in '{key}': add the names that are missing"
            )
        return tuple(plain_name(name) for name in value.tolist())

    def _array(self, name: str) -> Array:
        where = f"{self.path.name}: '{name}'"
        if name not in self.names:
            raise DpmixError(
                f"{self.path.name} has no array '{name}'; expected it next to: "
                f"{', '.join(self.names)}"
            )
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                value = stored[name]
        # A damaged archive makes zipfile, zlib and numpy raise errors of many kinds.
        except Exception as error:
            raise DpmixError(
                f"{where} holds Python objects, which are never unpickled; expected a plain uint8, "
                "integer or text array: save it as one"
                if "allow_pickle" in str(error)
                else f"{where} is damaged ({error}); expected a whole file: fetch it again"
            ) from error
        if not isinstance(value, np.ndarray):
            raise DpmixError(f"{where} is not an array; expected numpy.savez's")
        return value

    def _other(self, name: str, value: Array, expected: str) -> DpmixError:
        kind = f"{value.dtype} {list(value.shape)}"
        return DpmixError(f"{self.path.name}: '{name}' is {kind}; expected {expected}")

    def _pixels(self, name: str) -> UInt8[Tensor, "N C H W"]:
        value = self._array(name)
        if value.dtype != np.uint8:
            white = 1 if value.dtype.kind == "f" else 4095
            scaled = f"such as {in_eight_bits('x', white)} where {white} is white"
            rescale = f"uint8 0..255: rescale it by a range that is fixed beforehand, {scaled}"
            raise self._other(name, value, rescale)
        if 0 in value.shape:
            raise self._other(name, value, "at least one image")
        if value.ndim == 3:
            value = value[:, None]
        first, last = (value.ndim == 4 and value.shape[axis] in (1, 3) for axis in (1, 3))
        if first == last:
            layouts = "[N, H, W], [N, H, W, C] or [N, C, H, W] where C alone is 1 or 3"
            raise self._other(name, value, layouts)
        value = value if first else value.transpose(0, 3, 1, 2)
        return torch.from_numpy(np.ascontiguousarray(value))

    def _labels(self, name: str, count: int) -> Int64[Tensor, " N"]:
        """Read the labels of `count` images: whole numbers from 0, [N] or [N, 1]."""
        value = self._array(name)
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.dtype.kind in "US":
            raise DpmixError(
                f"{self.path.name}: '{name}' holds text; expected numbers from 0, and the names as "
                "'class_names': np.array([CLASSES.index(name) for name in y]), where CLASSES is "
                "fixed beforehand"
            )
        if value.dtype.kind not in "iufb" or value.ndim != 1 or len(value) != count:
            raise self._other(
                name, value, f"one whole number for each of {count} images (several labels per "
                "image are not supported yet), of one-hot rows y.argmax(axis=1)",
            )  # fmt: skip
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
        good = (value >= 0) & (value < 2**31) & (value == np.floor(value))  # no NaN is
        if not good.all():
            rows = np.flatnonzero(~good)
            more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
            raise DpmixError(
                f"{self.path.name}: '{name}' has the label {value[rows[0]]} in row {rows[0]}{more}"
                "; expected classes numbered from 0: leave such images out, as keep = np.ravel(y) "
                ">= 0; x[keep], y[keep] do, or give them a class"
            )
        return torch.from_numpy(value.astype(np.int64))

    def _refuse_gaps(self, labels: list[Int64[Tensor, " _"]]) -> tuple[str, ...]:
        """Return the class names for labels that are numbered from 0 without gaps."""
        names = self.class_names(*labels)
        used = torch.cat(labels).unique().tolist()
        if used != [*range(len(used))]:
            if used[-1] - used[0] == len(used) - 1:
                raise self._starts_at(used[0])
            missing = next(place for place, label in enumerate(used) if place != label)
            raise self._gap(f"label {missing} is that of no image")
        return names

    def _starts_at(self, lowest: int) -> DpmixError:
        return DpmixError(
            f"{self.path.name}: the labels start at {lowest}; expected classes numbered from 0: "
            f"save y - {lowest}"
        )

    def _gap(self, what: str) -> DpmixError:
        return DpmixError(
            f"{self.path.name}: {what}; expected classes numbered from 0 without gaps: save "
            "np.searchsorted(USED, y), where USED is the sorted list of labels in use"
        )
