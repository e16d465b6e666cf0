"""Fewer classes, training images held out for tuning, fewer training images; in this order.

Guarantee: an image's label decides about its class, and its place in the data set about all else,
by sha256. No pixel is looked at, no random generator asked, and the order is public.

What that means for the privacy claim: the training set that it is about is what is left in `train`,
and N is the number of those. Its neighbours are the sets with one of these images more or less,
and not the data sets that they were taken from: there one image more moves those behind it by one
place, and other images than before would be trained on (compare `hashed_split`, which goes by
paths). The images that are left out are not read by the training, those that are held out are
judged on without protection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from dpmix.data.encoded_source import EncodedSource
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError

# Some examples of a source: a process's own stretch, one side of a split, fewer than there are.


@dataclass(frozen=True, eq=False)
class Subset:
    """The examples of `whole` at `indices`, numbered from 0.

    Images are fetched from `whole` when they are asked for, so that a source which reads from the
    disk never reads what is left out.

    Attributes:
        whole: no subset itself: `Subset.of` sees to that.
        indices: into `whole`, on the CPU.
        class_names: one name per class that occurs, in label order.
    """

    whole: ImageSource
    indices: Int64[Tensor, " N"] = field(repr=False)
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, source: ImageSource, indices: Int64[Tensor, " N"]) -> "Subset":
        """The examples of `source` at `indices`, with all its classes."""
        if isinstance(source, Subset):
            return cls(source.whole, source.indices[indices], source.class_names)
        return cls(source, indices, source.class_names)

    @cached_property
    def labels(self) -> Int64[Tensor, " N"]:
        """The class of every image, on the CPU."""
        return self.whole.labels[self.indices]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.whole.image_shape

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """The images at `indices` of the subset."""
        return self.whole.images(self.indices[torch.as_tensor(indices)])


# The sha256 of every image's pixels: equal images have equal digests, whatever their labels.
#
# They are computed from private images, so they are never published.


_BATCH = 1024


def image_digests(source: ImageSource) -> UInt8[np.ndarray, "N 32"]:
    """The digest of every image of `source`, in order.

    Images that stay encoded were hashed when they were first decoded, and are not decoded again.
    """
    if isinstance(source, EncodedSource):
        return source.digests
    if isinstance(source, Subset) and isinstance(source.whole, EncodedSource):
        return source.whole.digests.take(source.indices.numpy(), axis=0)
    batches = torch.arange(len(source)).split(_BATCH)
    return np.concatenate([_of_batch(source.images(some)) for some in batches])


def _of_batch(images: UInt8[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B 32"]:
    pixels = images.cpu().contiguous().numpy()
    joined = b"".join(map(pixel_digest, pixels))
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(pixels), 32)


def pixel_digest(image: UInt8[np.ndarray, "C H W"]) -> bytes:
    """The 32 bytes of one image; images of one data set all have one shape."""
    return sha256(np.ascontiguousarray(image).data).digest()


# A train and a test source that fit together, and the two rules that divide one set into both.
#
# Guarantees of `Splits`: at least two classes, every class present on both sides, the same names
# and image shape on both sides. Neither rule draws from a random generator whose stream could
# change between library versions: both order or place examples by sha256.


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


def narrowed(
    splits: Splits, classes: int | None, validation_fraction: float | None, train_images: int | None
) -> Splits:
    """The part of `splits` that is asked for; None leaves it as it is.

    Args:
        splits: as they were read.
        classes: keep the first so many, of both sides.
        validation_fraction: expected share of the training images that takes the test images' part.
        train_images: keep so many training images.

    Raises:
        DpmixError: more than there is, less than can be trained on, or a class without an image.
    """
    if classes is not None:
        splits = _first_classes(splits, classes)
    if validation_fraction is not None:
        train = splits.train
        held = hashed_split([f"validation:{i}" for i in range(len(train))], validation_fraction)
        rest, validation = (Subset.of(train, side.nonzero().flatten()) for side in (~held, held))
        splits = replace(
            splits,
            train=rest,
            test=validation,
            judged_on="validation",
            held_out=f"{100 * validation_fraction:g}% of the training images, each by the hash of "
            "its place",
        )
    if train_images is not None:
        splits = replace(splits, train=_some(splits.train, train_images))
    return splits


def _first_classes(splits: Splits, classes: int) -> Splits:
    there = len(splits.train.class_names)
    if not 2 <= classes <= there:
        raise DpmixError(f"classes is {classes}; {splits.name} has {there}: expected 2 to {there}")

    def of(source: ImageSource) -> Subset:
        kept = (source.labels < classes).nonzero().flatten()
        return Subset(source, kept, source.class_names[:classes])

    return replace(splits, train=of(splits.train), test=of(splits.test))


def _some(train: ImageSource, count: int) -> Subset:
    """The first of a fixed order, so that a smaller set is part of a larger; as they lay."""
    if not 1 <= count <= len(train):
        raise DpmixError(
            f"train_images is {count}; expected 1 or more, and no more than there are to train on: "
            "give fewer, or leave it out to train on all"
        )
    order = sorted(range(len(train)), key=lambda i: sha256(f"train:{i}".encode()).digest())
    return Subset.of(train, torch.tensor(sorted(order[:count])))
