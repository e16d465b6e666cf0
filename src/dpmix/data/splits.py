"""A train and a test source that fit together, and the two rules that divide one set into both.

Guarantees of `Splits`: at least two classes, every class present on both sides, the same names and
image shape on both sides. Neither rule draws from a random generator whose stream could change
between library versions: both order or place examples by sha256.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from dpmix.data.digests import image_digests
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError

JudgedOn = Literal["test", "validation"]


@dataclass(frozen=True, eq=False)
class Splits:
    """The private training images and the held-out ones.

    Attributes:
        name: what the data set is called in reports.
        train: the examples that the guarantee is about.
        test: examples for evaluation only.
        judged_on: what those are: a test split, or training images held out for tuning.
        held_out: which those are and by what rule, in words; it tells nothing of any image.
        flip: whether a horizontal flip keeps a label's meaning by default.

    Raises:
        DpmixError: one class only, a class absent from a side, or sides that differ in image
            shape or class names.
    """

    name: str
    train: ImageSource
    test: ImageSource
    flip: bool
    judged_on: JudgedOn = "test"
    held_out: str = "the split that the data come with"

    def __post_init__(self) -> None:
        self._check_alike()
        if len(self.train.class_names) < 2:
            raise DpmixError(
                f"{self.name} has one class only, '{self.train.class_names[0]}'; "
                "expected at least two"
            )
        for side, source in (("train", self.train), (self.judged_on, self.test)):
            absent = _absent_classes(source)
            if absent:
                raise DpmixError(
                    f"{self.name}: no {side} image of class {', '.join(absent)}; expected every "
                    "class in both splits: add images, take the class out, or choose another share"
                )

    @cached_property
    def train_digests(self) -> UInt8[np.ndarray, "N 32"]:
        """The digest of every training image."""
        return image_digests(self.train)

    def _check_alike(self) -> None:
        if self.train.class_names != self.test.class_names:
            ours, theirs = set(self.train.class_names), set(self.test.class_names)
            differ = ", ".join(sorted(ours ^ theirs)) or "the same names in another order"
            raise DpmixError(f"{self.name}: train and test classes differ: {differ}")
        if self.train.image_shape != self.test.image_shape:
            raise DpmixError(
                f"{self.name}: train images are {self.train.image_shape} and test images "
                f"{self.test.image_shape} (C, H, W); expected one shape: give --image-size and "
                "--channels"
            )


def _absent_classes(source: ImageSource) -> list[str]:
    counts = torch.bincount(source.labels, minlength=len(source.class_names)).tolist()
    return [name for name, count in zip(source.class_names, counts, strict=True) if count == 0]


def hashed_split(relative_paths: Sequence[str], fraction: float) -> Bool[Tensor, " N"]:
    """Return which files are test files; each file decides by the sha256 of its own path.

    A file belongs to the test split when sha256(path) / 2^256 < `fraction`. This is a privacy
    rule: no file's place depends on another file, so folders that differ in one file give train
    sets that differ in at most that file. With a shuffled split, one file more would move many
    others, and the guarantee, which is about neighbouring train sets, would not carry over to
    neighbouring folders (`tests/data/test_splits.py`).

    Args:
        relative_paths: posix paths relative to the data's root, which machines agree on.
        fraction: expected share of test files, in (0, 1).

    Raises:
        DpmixError: `fraction` is outside (0, 1).
    """
    if not 0 < fraction < 1:
        raise DpmixError(f"the share held out is {fraction}; expected a number between 0 and 1")
    bound = int(fraction * 2.0**256)
    return torch.tensor([_hash(path) < bound for path in relative_paths], dtype=torch.bool)


def stratified_split(
    labels: Int64[Tensor, " N"], test_count: int, seed: int
) -> tuple[Int64[Tensor, " R"], Int64[Tensor, " S"]]:
    """Return (train, test) indices, ascending, with `test_count` test examples in all.

    Every class gives its proportional share, rounded by largest remainder. Only for public data:
    here one example's place depends on the others (compare `hashed_split`).

    Raises:
        DpmixError: `test_count` is not in 1..N-1.
    """
    if not 1 <= test_count < len(labels):
        raise DpmixError(f"test count is {test_count}; expected 1..{len(labels) - 1}")
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
    """`total` divided in proportion to `counts`; the largest remainders get the rest."""
    whole = sum(counts)
    shares = [total * count // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda c: -(total * counts[c] % whole))
    for c in by_remainder[: total - sum(shares)]:
        shares[c] += 1
    return shares


def _hash(text: str) -> int:
    # File names need not be valid unicode; surrogates stand for such bytes and must hash too.
    return int.from_bytes(sha256(text.encode("utf-8", "surrogateescape")).digest(), "big")
