"""A public data set that is not on this machine, by its published numbers: for a dry run alone.

Guarantee: its images are noise, and its name says that it is not there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.splits import Splits
from dpmix.errors import DpmixError


@dataclass(frozen=True)
class _Numbers:
    train: int
    test: int
    classes: int
    size: int | None


# Caltech256 and SUN397: one image in five of 30,607 and 108,754 is a test image.
KNOWN: dict[str, _Numbers] = {
    "cifar10": _Numbers(50_000, 10_000, 10, 32),
    "cifar100": _Numbers(50_000, 10_000, 100, 32),
    "eurosat": _Numbers(21_600, 5_400, 10, 64),
    "caltech256": _Numbers(24_486, 6_121, 257, None),
    "sun397": _Numbers(87_004, 21_750, 397, None),
    "pet": _Numbers(3_680, 3_669, 37, None),
}


@dataclass(frozen=True, eq=False)
class DescribedSource:
    """As many images of noise as there would be."""

    labels: Int64[Tensor, " N"]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """Noise."""
        return torch.randint(0, 256, (len(indices), *self.image_shape), dtype=torch.uint8)


def described_splits(name: str, image_size: int | None, channels: int | None) -> Splits:
    """The splits of one of `KNOWN`, without its images.

    Raises:
        DpmixError: a set whose images are of many sizes, and no `image_size`.
    """
    numbers = KNOWN[name]
    size = image_size or numbers.size
    if size is None:
        raise DpmixError(f"the images of '{name}' are of many sizes: give --image-size")
    classes = tuple(f"class {i}" for i in range(numbers.classes))
    train, test = (
        DescribedSource(torch.arange(count) % numbers.classes, classes, (channels or 3, size, size))
        for count in (numbers.train, numbers.test)
    )
    return Splits(
        f"{name} (not here: by its published numbers)",
        train,
        test,
        flip=True,
        held_out="as published",
    )
