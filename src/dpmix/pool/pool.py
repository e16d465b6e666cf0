"""Public images by class, and how an example draws some of them for `mix-diff`.

The images are taken as public: nothing private may have been read to make or choose them.

Guarantee: which public image is drawn depends on the example's own random draws and, for
`same_class` and `other_class`, on its own label; never on another example. So a view set still
reads one private example, and its gradient, clipped to C, is all that the example adds to the sum
(`properties/test_isolation.py`, `properties/test_sensitivity.py`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED


@dataclass(frozen=True, eq=False)
class PublicPool:
    """P public images."""

    images: UInt8[Tensor, "P C H W"]  # in memory or mapped from a file
    # the private data set's classes, or `UNLABELLED` for a uniform soft label
    labels: Int64[Tensor, " P"]

    def __post_init__(self) -> None:
        if not len(self.images) or len(self.images) != len(self.labels):
            raise DpmixError(
                f"the public pool holds {len(self.images)} images and {len(self.labels)} labels; "
                "expected as many labels as images, and at least one"
            )
        if int(self.labels.min()) < UNLABELLED:
            raise DpmixError(
                f"the public pool has label {int(self.labels.min())}; expected a class from 0, or "
                f"{UNLABELLED} for images without one"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(
        self, index: Int64[Tensor, "*shape"]
    ) -> tuple[UInt8[Tensor, "*shape C H W"], Int64[Tensor, "*shape"]]:
        """The images and classes at `index`, on its device."""
        at = index.to(self.images.device)
        return self.images[at].to(index.device), self.labels[at].to(index.device)


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """The positions of a pool's images in class order."""

    order: Int64[Tensor, " P"]  # positions sorted by class
    start: Int64[Tensor, " L"]  # where each of the L classes begins in `order`
    count: Int64[Tensor, " L"]  # how many images each class has

    @classmethod
    def of(cls, labels: Int64[Tensor, " P"], num_classes: int) -> "ClassIndex":
        """Sort the pool by `labels`, each in 0..L-1."""
        count = torch.bincount(labels, minlength=num_classes)
        return cls(torch.argsort(labels, stable=True), count.cumsum(0) - count, count)

    def same_class(
        self, bits: Int64[Tensor, "G D"], classes: Int64[Tensor, " G"]
    ) -> Int64[Tensor, "G D"]:
        """Positions drawn uniformly from the images of each of G examples' `classes`.

        `bits` are uniform over a range so wide that the bias of the remainder is nil.
        """
        start, count = self.start[classes, None], self.count[classes, None]
        return self.order[start + bits % count]

    def other_class(
        self, bits: Int64[Tensor, "G D"], classes: Int64[Tensor, " G"]
    ) -> Int64[Tensor, "G D"]:
        """Positions drawn uniformly from the images of all other classes; as `same_class`."""
        start, count = self.start[classes, None], self.count[classes, None]
        place = bits % (len(self.order) - count)
        return self.order[place + count * (place >= start)]
