"""Labelled images behind one small protocol: held in memory, or a part of another source.

Pixels are uint8 [C, H, W] of one shape. An image has one label, which indexes `class_names`; or,
for the task multi-label, one for each of the L names: 1, 0, or -1 where it is unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from dpmix.data.persons import Persons
from dpmix.errors import DpmixError
from dpmix.privacy.unit import Unit

Task = Literal["single-label", "multi-label"]
UNKNOWN = -1  # a label that nobody has looked for
_BATCH = 1024


# Checkable: the tests check annotations while the code runs.
@runtime_checkable
class ImageSource(Protocol):
    """N labelled images, fetched by index; example i is image i and label i."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""

    @property
    def labels(self) -> Int64[Tensor, "N *L"]:
        """The class of every image, [N], or its labels, [N, L]; on the CPU."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""

    def __len__(self) -> int: ...

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """The images at `indices`, in that order, repeats allowed."""


@dataclass(frozen=True, eq=False)
class TensorSource:
    """Images held in memory."""

    # Not in the repr: a private image does not belong in a log or a traceback.
    pixels: UInt8[Tensor, "N C H W"] = field(repr=False)  # uint8 [N, C, H, W], C in {1, 3}
    labels: Int64[Tensor, "N *L"] = field(repr=False)  # int64 [N] in 0..L-1, or [N, L] in -1..1
    class_names: tuple[str, ...]  # the L class names
    # N image names for error messages; None: numbers
    names: tuple[str, ...] | None = field(default=None, repr=False)
    persons: Persons | None = field(default=None, repr=False)  # who each image belongs to

    def __post_init__(self) -> None:
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3):
            raise DpmixError(
                f"images are {self.pixels.dtype} of shape {shape}; expected uint8 [N, C, H, W], "
                "C 1 or 3: rescale them by a range fixed beforehand"
            )
        check_labels(self.labels, len(self.pixels), self.class_names)
        if self.persons is not None and len(self.persons.owner) != len(self.pixels):
            raise DpmixError(
                f"there are {len(self.persons.owner)} persons for {len(self.pixels)} images; "
                "expected one for each"
            )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """The images at `indices`, on the device of `pixels`."""
        return self.pixels[indices.to(self.pixels.device)]


@dataclass(frozen=True, eq=False)
class Subset:
    """The examples of `whole` at `indices`; the images of the others are never read."""

    whole: ImageSource
    indices: Int64[Tensor, " N"] = field(repr=False)
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, source: ImageSource, indices: Int64[Tensor, " N"]) -> "Subset":
        """The examples of `source` at `indices`; a part of a part is a part of the whole."""
        if isinstance(source, Subset):
            return cls(source.whole, source.indices[indices], source.class_names)
        return cls(source, indices, source.class_names)

    @cached_property
    def labels(self) -> Int64[Tensor, "N *L"]:
        """The class of every image, or its labels, on the CPU."""
        return self.whole.labels[self.indices]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.whole.image_shape

    @property
    def digests(self) -> UInt8[np.ndarray, "N 32"] | None:
        """The digests that `whole` has kept of these images; None if it keeps none."""
        known: np.ndarray[Any, np.dtype[np.uint8]] | None = getattr(self.whole, "digests", None)
        return None if known is None else known[self.indices.numpy()]

    @cached_property
    def persons(self) -> Persons | None:
        """Who each image belongs to; None if `whole` does not tell."""
        known = known_persons(self.whole)
        return None if known is None else known.of_images(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """The images at `indices` of the subset."""
        return self.whole.images(self.indices[torch.as_tensor(indices)])


def task_of(labels: Int64[Tensor, "N *L"]) -> Task:
    """Whether an image has one class or several labels, by the shape of the labels."""
    return "single-label" if labels.ndim == 1 else "multi-label"


def known_persons(source: ImageSource) -> Persons | None:
    """Return who each image belongs to; None if the source does not tell."""
    persons: Persons | None = getattr(source, "persons", None)
    return persons


def persons_of(source: ImageSource) -> Persons:
    """Return who each image belongs to.

    Raises:
        DpmixError: the source does not tell.
    """
    persons = known_persons(source)
    if persons is None:
        raise DpmixError(
            "the unit of privacy is a person, and the images have no persons; give --persons or "
            "--person-pattern (make_private: persons=), or --unit image"
        )
    return persons


def unit_count(source: ImageSource, unit: Unit) -> int:
    """Return how many units of privacy there are: images or persons."""
    return len(source) if unit == "image" else len(persons_of(source))


def unit_labels(source: ImageSource, unit: Unit) -> Int64[Tensor, " U"]:
    """Return the class of every unit of privacy: of an image, or of a person's first image.

    With several labels an image there are no classes, and all are 0.
    """
    if task_of(source.labels) == "multi-label":
        return torch.zeros(unit_count(source, unit), dtype=torch.int64)
    if unit == "image":
        return source.labels
    persons = persons_of(source)
    return torch.stack([source.labels[persons.images(one)[0]] for one in range(len(persons))])


def class_shares(source: ImageSource, unit: Unit) -> Float64[Tensor, "U L"]:
    """Return the share of each class among the images of every unit; a row sums to one."""
    own = F.one_hot(source.labels, len(source.class_names)).double()
    if unit == "image":
        return own
    persons = persons_of(source)
    shares = torch.zeros(len(persons), own.shape[1], dtype=torch.float64)
    return shares.index_add_(0, persons.owner, own).div_(persons.counts[:, None])


def image_digests(source: ImageSource) -> UInt8[np.ndarray, "N 32"]:
    """Return the sha256 of every image's pixels, in order; labels and names do not enter.

    Digests are computed from private images, so they are never published. A source that decodes
    its images on access has kept theirs, and they are not decoded again.
    """
    known: np.ndarray[Any, np.dtype[np.uint8]] | None = getattr(source, "digests", None)
    if known is not None:
        return known
    batches = torch.arange(len(source)).split(_BATCH)
    pixels = (image for some in batches for image in source.images(some).cpu().numpy())
    return np.frombuffer(b"".join(map(pixel_digest, pixels)), dtype=np.uint8).reshape(-1, 32)


def pixel_digest(image: UInt8[np.ndarray, "C H W"]) -> bytes:
    """The sha256 of one image, 32 bytes; the images of one data set all have one shape."""
    return sha256(np.ascontiguousarray(image).data).digest()


def check_labels(labels: Tensor, count: int, class_names: Sequence[str]) -> None:
    """Refuse labels that are not int64, of no image, or fit neither of the two tasks.

    They index `class_names`, [count]; or there is one for each name, [count, L], in -1..1.
    """
    shapes = ((count,), (count, len(class_names)))
    if labels.dtype != torch.int64 or tuple(labels.shape) not in shapes or count == 0:
        raise DpmixError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)} for {count} images; "
            "expected int64, one for each image, and an image or more"
        )
    low, high = int(labels.min()), int(labels.max())
    least, most = (0, len(class_names) - 1) if labels.ndim == 1 else (UNKNOWN, 1)
    if low < least or high > most:
        raise DpmixError(f"labels are {low}..{high}; expected {least}..{most}")
    for name in class_names:
        if class_names.count(name) > 1:
            raise DpmixError(f"class name '{name}' is given twice; expected one name per class")
