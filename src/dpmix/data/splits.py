"""A train and a test source that fit together, the rules that divide one set, and split names.

No rule looks at a pixel or draws from a random generator.

The guarantee of a run is about the images left in `train`, and N is their number. Its neighbours
are the training sets with one of these images more or less. `hashed_split` carries this over to
neighbouring folders, since every file decides by its own path. `narrowed` does not carry it over to
the data set that the images were taken from: there, one more image moves those behind it by one
place. Training never reads the images that are left out, and those held out for validation are
judged on without protection.
"""

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal
from unicodedata import normalize

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from dpmix.data.source import ImageSource, Subset, image_digests, known_persons, task_of
from dpmix.errors import DpmixError

JudgedOn = Literal["test", "validation"]
Side = Literal["train", "test", "val"]
_SIDES: tuple[Side, ...] = ("train", "test", "val")
_NAMES = re.compile(
    r"(?:(train|training)|(test|testing)|(val|valid|validation))(?:[ _-]?set)?", re.IGNORECASE
)


@dataclass(frozen=True, eq=False)
class Splits:
    """The private training images and the held-out ones; every class occurs on both sides."""

    name: str  # what the data set is called in reports
    train: ImageSource  # the examples that the guarantee is about
    test: ImageSource  # examples for evaluation only
    flip: bool  # whether a horizontally flipped image keeps its label's meaning, by default
    # what `test` is: a test split, or training images held out for tuning
    judged_on: JudgedOn = "test"
    # how the test images were chosen, in words that tell nothing of any image
    held_out: str = "the split that the data come with"

    def __post_init__(self) -> None:
        names = self.train.class_names
        if names != self.test.class_names or self.train.image_shape != self.test.image_shape:
            kinds = (
                f"{len(one.class_names)} classes, {one.image_shape}"
                for one in (self.train, self.test)
            )
            raise DpmixError(
                f"{self.name}: train and test images differ: {' and '.join(kinds)} (C, H, W); "
                "expected the same classes, and one shape: give --image-size and --channels"
            )
        task = task_of(self.train.labels)
        if len(names) < 2 and task == "single-label":
            raise DpmixError(f"{self.name} has one class only, '{names[0]}'; expected at least two")
        ours, theirs = (_person_names(source) for source in (self.train, self.test))
        if both := sorted(ours & theirs):
            raise DpmixError(
                f"{self.name}: {len(both)} person(s) have train and {self.judged_on} images, such "
                f"as '{both[0]}'; expected each person on one side: move all images of a person to "
                "one split"
            )
        for side, source in (("train", self.train), (self.judged_on, self.test)):
            if task == "multi-label":
                _refuse_constant(self.name, side, source)
                continue
            counts = torch.bincount(source.labels, minlength=len(names)).tolist()
            if 0 in counts:
                absent = [name for name, count in zip(names, counts, strict=True) if count == 0]
                raise DpmixError(
                    f"{self.name}: no {side} image of class {', '.join(absent)}; expected every "
                    "class in both splits: add images, take the class out, or choose another share"
                )

    @cached_property
    def train_digests(self) -> UInt8[np.ndarray, "N 32"]:
        """The digest of every training image, see `image_digests`."""
        return image_digests(self.train)


def _refuse_constant(name: str, side: str, source: ImageSource) -> None:
    """Refuse labels that are not 1 for some image and 0 for another."""
    found = {value: (source.labels == value).any(dim=0).tolist() for value in (0, 1)}
    faults = []
    for label, no, yes in zip(source.class_names, found[0], found[1], strict=True):
        if not (no and yes):
            fault = "always 1" if yes else "always 0" if no else "never known"
            faults.append(f"'{label}' is {fault}")
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise DpmixError(
            f"{name}: among the {side} images label {', '.join(faults[:3])}{more}; expected both 1 "
            "and 0: leave it out by naming the others with --label-column, or choose another split"
        )


def _person_names(source: ImageSource) -> set[str]:
    persons = known_persons(source)
    return set() if persons is None else {*persons.names}


def hashed_split(relative_paths: Sequence[str], fraction: float) -> Bool[Tensor, " N"]:
    """Return which files are test files: those with sha256(path) / 2^256 < `fraction`.

    This is a privacy rule: no file's place depends on another file, so folders that differ in one
    file give train sets that differ in at most that file. With a shuffled split, one file more
    would move many others, and the guarantee, which is about neighbouring train sets, would not
    carry over to neighbouring folders (`tests/data/test_splits.py`).

    Args:
        relative_paths: posix paths relative to the data's root, which machines agree on; or each
            file's person, so that a person's files stay together.
        fraction: expected share of test files, in (0, 1).
    """
    if not 0 < fraction < 1:
        raise DpmixError(f"the share held out is {fraction}; expected a number between 0 and 1")
    bound = int(fraction * 2.0**256)
    return torch.tensor([_hash(path) < bound for path in relative_paths], dtype=torch.bool)


def stratified_split(
    labels: Int64[Tensor, " N"], test_count: int, seed: int
) -> tuple[Int64[Tensor, " R"], Int64[Tensor, " S"]]:
    """Return (train, test) indices, ascending; every class gives its share of `test_count`.

    Only for public data: here one example's place depends on the others (compare `hashed_split`).
    """
    order = sorted(range(len(labels)), key=lambda index: _hash(f"{seed}:{index}"))
    left = shares(torch.bincount(labels).tolist(), test_count)
    classes = labels.tolist()
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for index in order:
        if left[classes[index]]:
            left[classes[index]] -= 1
            is_test[index] = True
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()


def shares(counts: list[int], total: int) -> list[int]:
    """Divide `total` in proportion to `counts`; the largest remainders are rounded up."""
    whole = sum(counts)
    shares = [total * count // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda c: -(total * counts[c] % whole))
    for c in by_remainder[: total - sum(shares)]:
        shares[c] += 1
    return shares


def _hash(text: str) -> int:
    # File names need not be valid unicode; surrogates stand for such bytes and must hash too.
    return int.from_bytes(sha256(text.encode("utf-8", "surrogateescape")).digest(), "big")


def narrowed(
    splits: Splits, classes: int | None, validation_fraction: float | None, train_images: int | None
) -> Splits:
    """Return a part of `splits`; the arguments apply in their order, and None changes nothing.

    Args:
        splits: the whole data set.
        classes: number of classes to keep, the first ones, on both sides.
        validation_fraction: expected share of the training images that replaces the test images.
        train_images: number of training images to keep, the first of a fixed order.

    Where images have persons, both go by person: a person's images stay together, and as many
    persons are kept as have no more than `train_images` images together.
    """
    if classes is not None:
        if task_of(splits.train.labels) == "multi-label":
            raise DpmixError(
                f"classes is {classes}, and each image has several labels; choose them with "
                "--label-column"
            )
        known = len(splits.train.class_names)
        if not 2 <= classes <= known:
            raise DpmixError(
                f"classes is {classes}; {splits.name} has {known}: expected 2 to {known}"
            )
        sides = (
            Subset(one, (one.labels < classes).nonzero().flatten(), one.class_names[:classes])
            for one in (splits.train, splits.test)
        )
        splits = replace(splits, train=next(sides), test=next(sides))
    train = splits.train
    if validation_fraction is not None:
        keys = _keys(train)
        held = hashed_split([f"validation:{key}" for key in keys], validation_fraction)
        rest, validation = (Subset.of(train, side.nonzero().flatten()) for side in (~held, held))
        share = f"{100 * validation_fraction:g}% of the training images"
        decides = "person" if _person_names(train) else "place"
        splits = replace(
            splits, train=rest, test=validation, judged_on="validation",
            held_out=f"{share}, each by the hash of its {decides}",
        )  # fmt: skip
        train = rest
    if train_images is not None:
        if not 1 <= train_images <= len(train):
            # Without their number: N can be private.
            raise DpmixError(
                f"train_images is {train_images}; expected 1 or more, and no more than there are "
                "to train on: leave it out to train on all"
            )
        keys = _keys(train)
        # Equal keys, of one person's images, are next to each other.
        order = sorted(range(len(train)), key=lambda i: _hash(f"train:{keys[i]}"))
        most = train_images
        while 0 < most < len(order) and keys[order[most]] == keys[order[most - 1]]:
            most -= 1
        if most == 0:
            raise DpmixError(
                f"train_images is {train_images}, fewer than the first person has; give more"
            )
        kept = torch.tensor(sorted(order[:most]))
        splits = replace(splits, train=Subset.of(train, kept))
    return splits


def _keys(source: ImageSource) -> Sequence[str]:
    """What decides about each image: the name of its person, or its place."""
    persons = known_persons(source)
    if persons is None:
        return [str(place) for place in range(len(source))]
    return [persons.names[owner] for owner in persons.owner.tolist()]


def plain_name(name: str) -> str:
    """Return `name` in Unicode's form NFC: some systems store an accented letter as two."""
    return normalize("NFC", name)


def side_of(name: str) -> Side | None:
    """Return the split that `name` means, such as test for Test, TESTING or test_set; else None."""
    found = _NAMES.fullmatch(name)
    return _SIDES[(found.lastindex or 1) - 1] if found else None


def named_sides(names: Iterable[str], where: str) -> dict[Side, str]:
    """Return which of `names` stands for which split; two of one split are refused."""
    sides: dict[Side, str] = {}
    for name in names:
        side = side_of(name)
        if side in sides:
            raise DpmixError(
                f"{where} has '{sides[side]}' and '{name}', which both name the {side} split; "
                "expected one: merge them, or rename one"
            )
        if side is not None:
            sides[side] = name
    return sides


def judged_side(sides: Mapping[Side, str], where: str) -> str | None:
    """Return the name of the split to judge on: test, else validation, else None."""
    test, validation = sides.get("test"), sides.get("val")
    if test is not None and validation is not None:
        text = "is not used: neither trained on nor judged on"
        warnings.warn(f"{where}: '{validation}' {text}", stacklevel=2)
    elif validation is not None:
        text = "there is no test split: the model is judged on"
        warnings.warn(f"{where}: {text} '{validation}'", stacklevel=2)
    return test if test is not None else validation
