"""Public images by class, and how an example draws some of them.

Guarantee: which public image is drawn depends on the example's own coins and, for `same_class` and
`other_class`, on its own label; never on another example. So a view set still reads one private
example, and its gradient, clipped to C, is all that the example adds to the sum
(`tests/properties/test_isolation.py`, `test_sensitivity.py`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClassIndex:
    """The positions of a pool's images in class order.

    Attributes:
        order: positions sorted by class.
        start: where each of the L classes begins in `order`.
        count: how many images each class has.
    """

    order: Int64[Tensor, " P"]
    start: Int64[Tensor, " L"]
    count: Int64[Tensor, " L"]

    @classmethod
    def of(cls, labels: Int64[Tensor, " P"], num_classes: int) -> "ClassIndex":
        """Sort the pool by `labels`, each in 0..L-1."""
        count = torch.bincount(labels, minlength=num_classes)
        return cls(torch.argsort(labels, stable=True), count.cumsum(0) - count, count)

    def same_class(
        self, bits: Int64[Tensor, "G D"], classes: Int64[Tensor, " G"]
    ) -> Int64[Tensor, "G D"]:
        """Positions drawn uniformly from the images of each example's class.

        `bits` are coins, uniform over a range so wide that the remainder's bias is nil.
        """
        start, count = self.start[classes, None], self.count[classes, None]
        return self.order[start + bits % count]

    def other_class(
        self, bits: Int64[Tensor, "G D"], classes: Int64[Tensor, " G"]
    ) -> Int64[Tensor, "G D"]:
        """Positions drawn uniformly from the images of all other classes."""
        start, count = self.start[classes, None], self.count[classes, None]
        place = bits % (len(self.order) - count)
        return self.order[place + count * (place >= start)]
