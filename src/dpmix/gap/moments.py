"""Counts, sums and second moments of clipped features by class, and their private release.

One image with coordinates z, |z| <= 1, and class y adds the vector

    v = (COUNT * e_y,  SUM * e_y (x) z,  SECOND * z z^T),   COUNT^2 + SUM^2 + SECOND^2 = 1,

of norm at most sqrt(COUNT^2 + SUM^2 |z|^2 + SECOND^2 |z|^4) <= 1, where z z^T is kept as its upper
triangle with sqrt(2) off the diagonal, which has the matrix's Frobenius norm |z|^2. Adding or
removing one image changes the vector of all sums by one v: sensitivity 1. So sum + N(0, sigma^2 I)
is ONE Gaussian mechanism of noise multiplier sigma, whatever is computed from it afterwards
(`tests/gap/test_moments.py`).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dpmix.privacy.noise import with_noise
from dpmix.privacy.secure_stream import Stream

COUNT, SUM = 0.3, 0.8
SECOND = math.sqrt(1 - COUNT**2 - SUM**2)
_MANY = 1 << 20


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over a set of images, exact or released.

    Attributes:
        count: images of each class.
        total: sum of the coordinates by class.
        second: sum of z z^T over all classes.
    """

    count: Float64[Tensor, " L"]
    total: Float64[Tensor, "L k"]
    second: Float64[Tensor, "k k"]

    @classmethod
    def of(
        cls, coordinates: Float64[Tensor, "N k"], labels: Int64[Tensor, " N"], classes: int
    ) -> "Moments":
        """Add up images with labels in 0..classes-1; each row's norm is at most 1."""
        count = torch.bincount(labels, minlength=classes).double()
        total = torch.zeros(classes, coordinates.shape[1], dtype=torch.float64)
        return cls(count, total.index_add_(0, labels, coordinates), coordinates.T @ coordinates)

    @property
    def size(self) -> tuple[int, int]:
        """(L, k)."""
        classes, coordinates = self.total.shape
        return classes, coordinates

    def vector(self) -> Float64[Tensor, " V"]:
        """The scaled vector whose sensitivity is 1."""
        row, column = torch.triu_indices(*self.second.shape)
        triangle = self.second[row, column] * _triangle_weight(row, column)
        return torch.cat([COUNT * self.count, SUM * self.total.flatten(), SECOND * triangle])

    @classmethod
    def from_vector(cls, vector: Float64[Tensor, " V"], size: tuple[int, int]) -> "Moments":
        """The inverse of `vector`."""
        classes, k = size
        count, total, triangle = vector.split([classes, classes * k, k * (k + 1) // 2])
        row, column = torch.triu_indices(k, k)
        second = torch.zeros(k, k, dtype=torch.float64)
        second[row, column] = triangle / (SECOND * _triangle_weight(row, column))
        second[column, row] = second[row, column]
        return cls(count / COUNT, (total / SUM).reshape(classes, k), second)

    def released(self, sigma: float, rng: Stream) -> "Moments":
        """What may leave: the vector plus N(0, sigma^2 I); of public images (sigma 0), all."""
        if sigma == 0:
            return self
        (noisy,) = with_noise([self.vector()], sigma, 1.0, _MANY, rng)
        return Moments.from_vector(noisy, self.size)

    def scaled(self, count: Float64[Tensor, " L"]) -> "Moments":
        """The moments of a set of the same distribution with `count` images of each class."""
        ratio = torch.where(self.count > 0, count / self.count.clamp(min=1), 0.0)
        whole = float(count.sum() / self.count.sum().clamp(min=1))
        return Moments(self.count * ratio, self.total * ratio[:, None], self.second * whole)


def _triangle_weight(row: Tensor, column: Tensor) -> Float64[Tensor, " T"]:
    off_diagonal: Tensor = row != column
    return 1 + (math.sqrt(2) - 1) * off_diagonal.double()
