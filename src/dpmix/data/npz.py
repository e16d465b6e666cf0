"""`.npz` files: arrays of pixels, or encoded images laid end to end; nothing is ever unpickled."""

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.image import ReadOptions, fit_images
from dpmix.data.label_values import chosen_columns, label_matrix
from dpmix.data.persons import Persons
from dpmix.data.source import ImageSource, Task, TensorSource
from dpmix.data.splits import Side, Splits, judged_side, named_sides, plain_name, side_of
from dpmix.data.window import Window, in_eight_bits
from dpmix.errors import DpmixError, one_line

Array = np.ndarray[Any, np.dtype[Any]]

_ENCODED = "{}_jpeg"
_LABELS = {"x_{}": "y_{}", "X_{}": "y_{}", "{}_images": "{}_labels", _ENCODED: "{}_label"}
"""The arrays of images and of labels in each layout; {} stands for the split's name."""


def is_npz(path: Path) -> bool:
    """Whether `path` is that of an `.npz` file, by its suffix in any case."""
    return path.suffix.lower() == ".npz"


def npz_splits(
    path: Path,
    options: ReadOptions,
    task: Task = "single-label",
    columns: tuple[str, ...] = (),
) -> Splits:
    """Load `x_train, y_train, x_test, y_test`, or the same in one of these layouts.

    MedMNIST's `train_images, train_labels`; or JPEG or PNG bytes laid end to end as `train_jpeg`,
    with the end of every image as `train_end` and labels as `train_label`. `side_of` says how the
    splits may be called. Images are uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], C in {1, 3};
    a fixed window of `options` maps other integers, of C 1, to 8 bits.
    Class names come from `class_names`, `classes` or `names`; without, they are the numbers.
    Persons come from `train_person, test_person`: a name or a number for every image. With several
    labels an image, labels are [N, L]: 1, 0, and -1 or NaN where unknown. `columns` names those to
    take; empty: all.

    Raises:
        DpmixError: no `.npz`, an array missing or of another kind, two layouts, `skip_corrupt` for
            plain pixels, and as `decode_sources` raises.
    """
    archive = NpzArchive(path)
    layouts: dict[str, dict[Side, str]] = {}
    for images in _LABELS:
        matches = (re.fullmatch(images.format("(.+)"), name) for name in archive.names)
        sides = named_sides((one[1] for one in matches if one and side_of(one[1])), path.name)
        if "train" in sides:
            layouts[images] = sides
    if len(layouts) != 1:
        raise DpmixError(
            f"{path.name} holds {', '.join(archive.names) or 'nothing'}; expected the arrays of "
            "one layout, such as x_train, y_train, x_test, y_test: save a file for each"
        )
    images, sides = layouts.popitem()
    test = judged_side(sides, path.name)
    if test is None:
        raise DpmixError(
            f"{path.name} has '{images.format(sides['train'])}' but no '{images.format('test')}'; "
            "expected a test split in the same layout: add one"
        )
    return archive.splits(images, (sides["train"], test), options, task, columns)


class NpzArchive:
    """The arrays of an `.npz` file, each read when it is asked for; `names` lists them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as stored:
                self.names = list(stored.files)
        # What begins like a zip file can still be anything.
        except Exception as error:
            raise DpmixError(
                f"'{path}' cannot be read as an .npz file ({one_line(error)}); expected a whole "
                "one, written by numpy.savez: check the path"
            ) from error

    def splits(
        self,
        images: str,
        sides: tuple[str, str],
        options: ReadOptions,
        task: Task,
        columns: tuple[str, ...],
    ) -> Splits:
        """Read the splits `sides`, to train on and to judge on, in the layout `images`."""
        several = task == "multi-label"
        train: ImageSource
        test: ImageSource
        if images == _ENCODED:
            parts = [self.encoded(side, several) for side in sides]
            names, labels = self._named([part.labels for part in parts], several, columns)
            parts = [replace(part, labels=own) for part, own in zip(parts, labels, strict=True)]
            owners = self.owners(sides, [len(part) for part in parts])
            parts = [replace(part, owners=own) for part, own in zip(parts, owners, strict=True)]
            (train, test), _ = decode_sources(parts, names, options)
            return Splits(self.path.stem, train, test, flip=True)
        if options.skip_corrupt:
            raise DpmixError(
                f"--skip-corrupt does not apply to {self.path.name}: its pixels are not encoded; "
                "leave it out"
            )
        pixels = [fit_images(self._pixels(images.format(side), options), options) for side in sides]
        keys = (_LABELS[images].format(side) for side in sides)
        found = [
            self._labels(key, len(part), several) for key, part in zip(keys, pixels, strict=True)
        ]
        names, labels = self._named(found, several, columns)
        owners = self.owners(sides, [len(part) for part in pixels])
        train, test = (
            TensorSource(part, own, names, persons=None if of is None else Persons.named(of))
            for part, own, of in zip(pixels, labels, owners, strict=True)
        )
        return Splits(self.path.stem, train, test, flip=True)

    def encoded(self, side: str, several: bool = False) -> EncodedImages:
        """Return the encoded images `{side}_jpeg` and their labels."""
        key = _ENCODED.format(side)
        blob, ends = self._array(key), self._array(f"{side}_end")
        if blob.dtype != np.uint8 or blob.ndim != 1:
            raise self._other(key, blob, "uint8 bytes in one row")
        spans = list(pairwise([0, *ends.tolist()])) if ends.ndim == 1 else []
        if (
            ends.dtype.kind not in "iu"
            or not spans
            or any(start >= end for start, end in spans)
            or spans[-1][1] != len(blob)
        ):
            expected = f"ascending end offsets of images, the last {len(blob)}"
            raise self._other(f"{side}_end", ends, expected)
        data = np.ascontiguousarray(blob).data
        return EncodedImages(
            tuple(f"{key}[{i}]" for i in range(len(spans))),
            tuple(data[start:end] for start, end in spans),
            self._labels(f"{side}_label", len(spans), several),
        )

    def _named(
        self, labels: list[Int64[Tensor, "_ *L"]], several: bool, columns: tuple[str, ...]
    ) -> tuple[tuple[str, ...], list[Int64[Tensor, "_ *T"]]]:
        """The names of the classes, or of the labels that are taken, and the labels."""
        if not several:
            return self.class_names(torch.cat(labels)), labels
        count = labels[0].shape[1]
        names = self.stored_names() or tuple(map(str, range(count)))
        if {one.shape[1] for one in labels} != {len(names)}:
            raise DpmixError(
                f"{self.path.name}: training images have {labels[0].shape[1]} labels, test images "
                f"{labels[1].shape[1]}, and there are {len(names)} names; expected the same number"
            )
        chosen = chosen_columns(names, columns, self.path.name)
        places = [names.index(one) for one in chosen]
        return tuple(chosen), [one[:, places] for one in labels]

    def owners(self, sides: tuple[str, str], counts: list[int]) -> list[tuple[str, ...] | None]:
        """Return the persons of the images of each side, `{side}_person`; None without both."""
        found_of = {
            side_of(name.removesuffix("_person")): name
            for name in self.names
            if name.endswith("_person")
        }
        keys = [found_of.get(side_of(side), f"{side}_person") for side in sides]
        if others := [n for n in self.names if "person" in n.lower() and n not in keys]:
            raise DpmixError(
                f"{self.path.name} has the array '{others[0]}', which names no split; expected "
                f"persons in '{keys[0]}' and '{keys[1]}': rename it"
            )
        if not {*keys} & {*self.names}:
            return [None, None]
        found: list[tuple[str, ...] | None] = []
        for key, count in zip(keys, counts, strict=True):
            value = self._array(key)
            if value.dtype.kind not in "iuU" or value.shape != (count,):
                raise self._other(key, value, f"a name or a number for each of {count} images")
            names = tuple(plain_name(str(one)).strip() for one in value.tolist())
            if empty := names.count(""):
                raise DpmixError(
                    f"{self.path.name}: '{key}' names no person for {empty} image(s), such as "
                    f"number {names.index('')}; expected one for every image"
                )
            found.append(names)
        return found

    def stored_names(self) -> tuple[str, ...] | None:
        """Return the class names in the file, if there are any; no other array is read."""
        key = next((key for key in ("class_names", "classes", "names") if key in self.names), None)
        if key is None:
            return None
        value = self._array(key)
        if value.dtype.kind != "U" or value.ndim != 1:
            raise self._other(key, value, "a list of text, one name per class")
        return tuple(plain_name(name) for name in value.tolist())

    def class_names(self, labels: Int64[Tensor, " N"]) -> tuple[str, ...]:
        """Return the class names in the file, or the numbers of `labels`, which have no gaps."""
        names, used = self.stored_names(), labels.unique().tolist()
        count = len(used) if names is None else len(names)
        if used[-1] >= count:
            raise DpmixError(
                f"{self.path.name}: the labels are {len(used)} of {used[0]}..{used[-1]}; expected "
                f"0..{count - 1}, each a class: name all classes in 'class_names', or save "
                "np.searchsorted(USED, y), where USED is the sorted list of labels in use"
            )
        return tuple(map(str, used)) if names is None else names

    def _array(self, name: str) -> Array:
        if name not in self.names:
            raise DpmixError(
                f"{self.path.name} has no array '{name}'; expected it next to: "
                f"{', '.join(self.names)}"
            )
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                value = stored[name]
            if isinstance(value, np.ndarray):
                return value
            reason = "no array"
        # A damaged archive makes zipfile, zlib and numpy raise errors of many kinds.
        except Exception as error:
            reason = one_line(error)
        raise DpmixError(
            f"{self.path.name}: '{name}' cannot be read ({reason}); expected a plain uint8, "
            "integer or text array in a whole file (nothing is unpickled)"
        )

    def _other(self, name: str, value: Array, expected: str) -> DpmixError:
        kind = f"{value.dtype} {list(value.shape)}"
        return DpmixError(f"{self.path.name}: '{name}' is {kind}; expected {expected}")

    def _pixels(self, name: str, options: ReadOptions) -> UInt8[Tensor, "N C H W"]:
        value, window = self._array(name), options.window
        mapped = isinstance(window, Window) and value.dtype.kind in "iu"
        if value.dtype != np.uint8 and not mapped:
            white = 1 if value.dtype.kind == "f" else 65535
            scaled = f"such as {in_eight_bits('x', white)} where {white} is white"
            expected = f"uint8 0..255: rescale it by a range that is fixed beforehand, {scaled}"
            raise self._other(name, value, expected)
        value = value[:, None] if value.ndim == 3 else value
        first, last = (value.ndim == 4 and value.shape[axis] in (1, 3) for axis in (1, 3))
        if first == last or 0 in value.shape:
            layouts = "[N, H, W], [N, H, W, C] or [N, C, H, W], not empty, where C alone is 1 or 3"
            raise self._other(name, value, layouts)
        value = value if first else value.transpose(0, 3, 1, 2)
        if value.dtype != np.uint8:
            assert isinstance(window, Window)
            if value.shape[1] != 1:
                raise self._other(name, value, "grey images, or colours of uint8: convert them")
            value = np.stack([window.apply(image.astype(np.float64)) for image in value])
        return torch.from_numpy(np.ascontiguousarray(value))

    def _labels(self, name: str, count: int, several: bool) -> Int64[Tensor, "N *L"]:
        """Read the labels of `count` images: whole numbers from 0, [N] or [N, 1]; or [N, L]."""
        value = self._array(name)
        if several:
            if value.ndim != 2 or len(value) != count:
                raise self._other(name, value, f"[{count}, L], one column for each label")
            columns = [str(column) for column in range(value.shape[1])]
            where = f"{self.path.name}: '{name}'"
            return label_matrix(value, columns, where, lambda row: f" in row {row}")
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.dtype.kind not in "iufb" or value.shape != (count,):
            expected = (
                f"one whole number from 0 for each of {count} images: of text "
                "np.array([CLASSES.index(name) for name in y]), where CLASSES is fixed beforehand; "
                "of one-hot rows y.argmax(axis=1); of several labels an image --task multi-label"
            )
            raise self._other(name, value, expected)
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
        good = (value >= 0) & (value < 2**31) & (value == np.floor(value))  # no NaN is
        if not good.all():
            row = int(np.argmin(good))
            raise DpmixError(
                f"{self.path.name}: '{name}' has the label {value[row]} in row {row}; expected "
                "classes numbered from 0: leave such images out, or give them a class"
            )
        return torch.from_numpy(value.astype(np.int64))
