"""A small convolutional network for images of about 28 to 32 pixels.

It contains GroupNorm only, so it mixes no examples, and adaptive pooling, so it takes any number of
channels and any image of at least 8x8 pixels.

The layer order (weight-standardised convolution, ReLU, GroupNorm) is that of De et al. 2022 (arXiv
2204.13650). There are two layers because noise grows with the number of parameters and these were
enough.
"""

from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.wide_resnet import WSConv2d

_GROUPS = 4
_GRID = 4  # the pooled map is 4x4 for every image size


class SmallCNN(nn.Module):
    """Two convolutions and a linear layer: [B, C, H, W] images to [B, L] logits.

    Args:
        in_channels: C.
        num_classes: L.
        channels: widths of the 5x5 convolution, which halves the image, and of the 3x3 one;
            multiples of 4.
    """

    def __init__(
        self, *, in_channels: int, num_classes: int, channels: tuple[int, int] = (16, 32)
    ) -> None:
        super().__init__()
        first, second = channels
        self.features = nn.Sequential(
            WSConv2d(in_channels, first, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.GroupNorm(_GROUPS, first),
            WSConv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.GroupNorm(_GROUPS, second),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
        )
        self.head = nn.Linear(second * _GRID**2, num_classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Return the logits [B, L] of images [B, C, H, W]."""
        logits: Tensor = self.head(self.features(x))
        return logits
