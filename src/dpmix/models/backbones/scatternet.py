"""`scatternet`: a wavelet scattering transform, which needs no public weights at all.

Two layers of fixed wavelets (J = 2, 8 angles; Oyallon and Mallat 2015), on which Tramer and Boneh
2021 (arXiv 2011.11660) train private classifiers.
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError
from dpmix.models.backbone import Backbone, Embedder
from dpmix.models.backbones.request import BackboneRequest
from dpmix.models.backbones.scattering import ANGLES, SCALES, Scattering
from dpmix.models.backbones.scatternet_whitening import scatternet_whitening

SIZE = 32
GRID = 4


class ScatterNet(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to 3,888 features.

    The 243 x S/4 x S/4 numbers are averaged over a 4 x 4 grid, and the channels whitened by
    constants that depend on no data. docs/results.md compares that with Tramer and Boneh's group
    norm, and with other ways to make the numbers fewer.

    Args:
        size: S, a multiple of 4, at least 16.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scattering = Scattering(size)
        weight, bias = scatternet_whitening()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias[:, None])

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features."""
        few = F.adaptive_avg_pool2d(self.scattering(x).flatten(1, 2), GRID).flatten(2)
        weight = self.weight.expand(x.shape[0], -1, -1)  # `len` would fix B where it is exported
        return torch.baddbmm(self.bias, weight, few).flatten(1)


def scatternet(request: BackboneRequest) -> Backbone:
    """Build it; there are no weights to load.

    Raises:
        DpmixError: a size that the transform can't take.
    """
    size = request.input_size or SIZE
    if size % 2**SCALES or size < 16:
        raise DpmixError(f"backbone scatternet at {size} pixels: expected a multiple of 4 from 16")
    return Backbone(
        name="scatternet",
        module=Embedder(ScatterNet(size), size, channels_last=False),
        normalization=normalization("unit", 3),
        provenance=f"no trained weights: wavelet scattering, J = {SCALES}, {ANGLES} angles, "
        "whitened by the statistics of random noise",
        licence="none needed",
    )
