"""`scatter-cnn`: a small convolutional network on wavelet maps, for data with no public relative.

Its frozen part is `scattering-map`: wavelets and constants from random noise, so no image of anyone
is in it. After Tramer and Boneh 2021 (arXiv 2011.11660), who trained such a network privately;
docs/results/scatter-cnn.md has what differs.
"""

import math

from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.backbones.scattering import PATHS

SCATTER_CNN = "scatter-cnn"
CHANNELS = 3 * PATHS  # of each colour

_NARROW, _WIDE, _GROUP, _GRID = 32, 128, 4, 2
_SHORTEST = 1e-12


class ScatterCNN(nn.Module):
    """Maps [B, 243 * T * T] to logits [B, L], by two convolutions and a linear layer.

    An image's map is first scaled to a root mean square of one, by its own numbers alone, and there
    is GroupNorm only: no example sees another, which `tests/models/test_scatter_cnn.py` checks. The
    linear layer starts at zero.

    Args:
        numbers: 243 * T * T.
        classes: L.
    """

    def __init__(self, numbers: int, classes: int) -> None:
        super().__init__()
        side = math.isqrt(numbers // CHANNELS)
        self.shape = (CHANNELS, side, side)
        self.features = nn.Sequential(
            nn.Conv2d(CHANNELS, _NARROW, 1),
            nn.ReLU(),
            nn.GroupNorm(_NARROW // _GROUP, _NARROW),
            nn.Conv2d(_NARROW, _WIDE, 3, padding=1),
            nn.ReLU(),
            nn.GroupNorm(_WIDE // (2 * _GROUP), _WIDE),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
        )
        self.linear = nn.Linear(_WIDE * _GRID**2, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        length = x.norm(dim=1, keepdim=True).clamp(min=_SHORTEST)
        maps = (x * (math.sqrt(x.shape[1]) / length)).unflatten(1, self.shape)
        logits: Tensor = self.linear(self.features(maps))
        return logits
