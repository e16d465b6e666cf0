"""Wide ResNets for differentially private training from scratch: WRN-16-4, WRN-40-4.

Every normalisation is a GroupNorm, so no example sees another and no running statistics are kept.
Every convolution is weight-standardised and has a bias. Global average pooling makes any number of
channels and any image size possible.

Source: De et al. 2022 (arXiv 2204.13650, section 3 and their released code), after Zagoruyko and
Komodakis 2016. One difference: a 3x3 convolution with stride 2 pads one pixel on every side, as in
PyTorch and TAN; Haiku's SAME padding pads an even image only after its last pixel.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name

from dpmix.errors import DpmixError, nearest

SHORTCUTS = ("conv", "conv-norm-relu")

_GROUPS, _STEM = 16, 16

# Standard deviation of a unit normal that is truncated at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978

EPS = 1e-4  # De et al.'s released code; the floor of var * fan_in


def fan_in_normal_(weight: Tensor) -> None:
    """Fill a weight [out, in, ...] in place from a truncated normal with variance 1 / fan_in.

    That is the variance after truncation, as in De et al.'s released code.
    """
    std = 1.0 / (math.sqrt(weight[0].numel()) * _TRUNCATED_STD)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)


class WSConv2d(nn.Conv2d):
    """A 2-D convolution whose weight is `(w - mean) * gain / sqrt(max(var * fan_in, 1e-4))`.

    Mean and (biased) variance are taken over the fan-in of each output channel, at every forward.
    Parameters stay plain tensors: there is no buffer and nothing depends on the batch. The
    learnable `gain` [out] starts at one, the bias at zero. Arguments are those of `nn.Conv2d`.
    Input [B, in, H, W], output [B, out, H', W'].

    Sources: Qiao et al. 2019 (arXiv 1903.10520); Brock, De, Smith, Simonyan 2021 (arXiv 2102.06171,
    section 2) for the scaled form with a gain, which De et al. 2022 use.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel_size: int, *, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__(inputs, outputs, kernel_size, stride=stride, padding=padding)
        self.gain = nn.Parameter(torch.ones(outputs))

    def reset_parameters(self) -> None:
        """Draw the weight with variance 1 / fan_in, and set the bias to zero."""
        assert self.bias is not None
        fan_in_normal_(self.weight)
        nn.init.zeros_(self.bias)

    def standardized_weight(self) -> Float[Tensor, "O I kH kW"]:
        """Return the weight that convolves."""
        fan = (1, 2, 3)
        # In two passes: `torch.var_mean` takes several times as long on a CPU.
        centred = self.weight - self.weight.mean(dim=fan, keepdim=True)
        # var * fan_in is the squared norm of the centred weight.
        norm = torch.linalg.vector_norm(centred, dim=fan, keepdim=True).clamp(min=EPS**0.5)
        weight: Tensor = centred * (self.gain.view(-1, 1, 1, 1) / norm)
        return weight

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O H2 W2"]:
        """Convolve x with the standardised weight."""
        y: Tensor = self._conv_forward(x, self.standardized_weight(), self.bias)
        return y


class WideResNet(nn.Module):
    """WRN-depth-width: [B, C, H, W] images to [B, L] logits.

    Args:
        depth: number of layers, 6n + 4 for n blocks in each of the three groups, n >= 1.
        width: factor on the group widths 16, 32, 64.
        in_channels: C.
        num_classes: L.
        shortcut: the skip path where the shape changes. `conv`, De et al.'s, is ReLU, GroupNorm and
            a 1x1 convolution. `conv-norm-relu`, of TAN (Sander et al. 2023, arXiv 2210.03403), has
            GroupNorm first; it raised DP-Mix_Self's CIFAR-10 accuracy at epsilon 8 from 78.49 to
            79.83 (Bao and Bindschaedler, ACSAC 2024, table 8).
    """

    def __init__(
        self, depth: int, width: int, *, in_channels: int, num_classes: int, shortcut: str = "conv"
    ) -> None:
        super().__init__()
        if shortcut not in SHORTCUTS:
            raise DpmixError(f"unknown shortcut '{shortcut}': {nearest(shortcut, SHORTCUTS)}")
        blocks = (depth - 4) // 6
        widths = [_STEM * width, 2 * _STEM * width, 4 * _STEM * width]
        self.stem = WSConv2d(in_channels, _STEM, 3, padding=1)
        self.groups = nn.Sequential(
            _group(blocks, _STEM, widths[0], 1, shortcut),
            _group(blocks, widths[0], widths[1], 2, shortcut),
            _group(blocks, widths[1], widths[2], 2, shortcut),
        )
        self.norm = nn.GroupNorm(_GROUPS, widths[2])
        self.head = nn.Linear(widths[2], num_classes)
        fan_in_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        x = self.groups(self.stem(x))
        pooled = self.norm(F.relu(x)).mean(dim=(-2, -1))
        logits: Tensor = self.head(pooled)
        return logits


class _Block(nn.Module):
    """Two rounds of ReLU, GroupNorm, 3x3 convolution, plus the skip path."""

    def __init__(self, in_channels: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, in_channels)
        self.conv1 = WSConv2d(in_channels, width, 3, stride=stride, padding=1)
        self.norm2 = nn.GroupNorm(_GROUPS, width)
        self.conv2 = WSConv2d(width, width, 3, padding=1)
        self.skip: nn.Module = nn.Identity()
        if in_channels != width or stride != 1:
            norm, relu = nn.GroupNorm(_GROUPS, in_channels), nn.ReLU()
            before = (relu, norm) if shortcut == "conv" else (norm, relu)
            self.skip = nn.Sequential(*before, WSConv2d(in_channels, width, 1, stride=stride))

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O H2 W2"]:
        main = self.conv1(self.norm1(F.relu(x)))
        main = self.conv2(self.norm2(F.relu(main)))
        return torch.add(main, self.skip(x))


def _group(blocks: int, in_channels: int, width: int, stride: int, shortcut: str) -> nn.Sequential:
    first = _Block(in_channels, width, stride, shortcut)
    return nn.Sequential(first, *(_Block(width, width, 1, shortcut) for _ in range(blocks - 1)))
