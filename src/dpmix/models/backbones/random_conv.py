"""512 features of fixed random filters: always there, and seeing no objects."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.data.normalization import normalization
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder

SIZE = 32


class RandomConv(nn.Module):
    """512 features of fixed random filters: colour, edges and texture, but no objects.

    In the manner of Coates, Lee and Ng 2011: convolution with filters without mean, both signs
    rectified, pooled over quadrants.
    """

    def __init__(self, filters: int = 64, width: int = 6) -> None:
        super().__init__()
        rng = np.random.default_rng(20231101)
        weight = rng.standard_normal((filters, 3, width, width))
        weight -= weight.mean(axis=(1, 2, 3), keepdims=True)
        weight /= np.sqrt((weight**2).sum(axis=(1, 2, 3), keepdims=True))
        self.register_buffer("weight", torch.from_numpy(weight).float())

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the pooled responses."""
        assert isinstance(self.weight, Tensor)
        response = F.conv2d(x, self.weight, stride=2)
        rectified = torch.cat([response.relu(), (-response).relu()], dim=1)
        return F.adaptive_avg_pool2d(rectified, 2).flatten(1)


def random_conv(request: BackboneRequest) -> Backbone:
    """Build it; there are no weights to load."""
    return Backbone(
        name="random-conv",
        module=Embedder(RandomConv(), request.input_size or SIZE, channels_last=False),
        normalization=normalization("half", 3),
        provenance="no trained weights: fixed random filters",
        licence="none needed",
    )
