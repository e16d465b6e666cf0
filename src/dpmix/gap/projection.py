"""Features to a few coordinates of norm at most 1, by a rule made from the pool alone.

Guarantee: the rule depends on public images only, and every image it is applied to comes out with
Euclidean norm at most 1, whatever its features; that is what bounds one example's influence
(`gap/moments.py`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

DIRECTIONS = 16
RADIUS_QUANTILE = 0.95


@dataclass(frozen=True, eq=False)
class PublicProjection:
    """d principal directions of the pool's features, and the length of what they leave.

    The last coordinate sees what the pool's own variation does not span: a domain that differs in
    ways in which the pool never varies.

    Attributes:
        mean: of the pool's features.
        directions: orthonormal columns.
        rest: the pool's mean length outside them.
        radius: the length that becomes 1: 95 % of the pool's images are shorter.
    """

    mean: Float64[Tensor, " D"]
    directions: Float64[Tensor, "D d"]
    rest: float
    radius: float

    @classmethod
    def of(cls, pool: Float[Tensor, "P D"]) -> "PublicProjection":
        """Fit to a pool's features."""
        features = pool.double()
        mean = features.mean(dim=0)
        centred = features - mean
        # Columns by descending eigenvalue; a small pool has fewer directions than asked for.
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
        directions = directions[:, : min(DIRECTIONS, len(features) - 1, features.shape[1])]
        rule = cls(mean, directions, 0.0, 1.0)
        rest = float(rule._coordinates(features)[:, -1].mean())
        rule = cls(mean, directions, rest, 1.0)
        lengths = rule._coordinates(features).norm(dim=1)
        radius = float(torch.quantile(lengths, RADIUS_QUANTILE))
        return cls(mean, directions, rest, max(radius, torch.finfo(torch.float32).tiny))

    def __call__(self, features: Float[Tensor, "B D"]) -> Float64[Tensor, "B k"]:
        """Coordinates, k = d + 1, scaled by `radius` and clipped to norm 1; not finite: zero."""
        scaled = self._coordinates(features.double()) / self.radius
        length = scaled.norm(dim=1, keepdim=True)
        # Nudged inwards, so that rounding can't leave a norm above 1.
        clipped = scaled / length.clamp(min=1) * (1 - 1e-12)
        return torch.where(torch.isfinite(clipped).all(dim=1, keepdim=True), clipped, 0.0)

    def _coordinates(self, features: Float64[Tensor, "B D"]) -> Float64[Tensor, "B k"]:
        centred = features - self.mean
        along = centred @ self.directions
        outside = (centred - along @ self.directions.T).norm(dim=1, keepdim=True) - self.rest
        return torch.cat([along, outside], dim=1)
