"""Public images by class, and how an example draws some of them for `mix-diff`.

The images are taken as public: nothing private may have been read to make or choose them.

Guarantee: which public image is drawn depends on the example's own random draws and, for
`same-class` and `other-class`, on its own label; never on another example. So a view set still
reads one private example, and its gradient, clipped to C, is all that the example adds to the sum
(`properties/test_isolation.py`, `properties/test_sensitivity.py`).
"""

from dataclasses import dataclass
from functools import cached_property

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
        if not len(self) or len(self) != len(self.labels) or int(self.labels.min()) < UNLABELLED:
            raise DpmixError(
                f"the public pool holds {len(self)} images and {len(self.labels)} labels; expected "
                f"an image or more, each with a class from 0, or {UNLABELLED} for none"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(
        self, index: Int64[Tensor, "*shape"]
    ) -> tuple[UInt8[Tensor, "*shape C H W"], Int64[Tensor, "*shape"]]:
        """The images and classes at `index`, on its device."""
        at = index.to(self.images.device)
        return self.images[at].to(index.device), self.labels[at].to(index.device)

    @cached_property
    def _by_class(self) -> tuple[Int64[Tensor, " P"], Int64[Tensor, " P"]]:
        """The labels in order, and where each stands in the pool."""
        ordered, places = torch.sort(self.labels, stable=True)
        return ordered, places

    def draw(
        self, bits: Int64[Tensor, "G D"], own: Int64[Tensor, " G"], how: str
    ) -> Int64[Tensor, "G D"]:
        """Positions drawn uniformly from all images, those of the own class, or all others.

        Args:
            bits: random draws, uniform over a range so wide that the bias of a remainder is nil.
            own: class of each of the G examples.
            how: `uniform`, `same-class` or `other-class`.
        """
        if how == "uniform":
            return bits % len(self)
        ordered, places = self._by_class
        start = torch.searchsorted(ordered, own)[:, None]
        count = torch.searchsorted(ordered, own, right=True)[:, None] - start
        if how == "same-class":
            return places[start + bits % count]
        place = bits % (len(self) - count)
        return places[place + count * (place >= start)]
