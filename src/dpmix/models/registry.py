"""Models by name, and the small one of them."""

from collections.abc import Callable
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError, nearest
from dpmix.models.scatter_cnn import SCATTER_CNN
from dpmix.models.wide_resnet import WideResNet, WSConv2d

_GROUPS, _GRID = 4, 4  # the pooled map is 4x4 for every image size


class SmallCNN(nn.Module):
    """Two convolutions and a linear layer: [B, C, H, W] images of 8x8 or more to [B, L] logits.

    It contains GroupNorm only, so it mixes no examples. The layer order (weight-standardised
    convolution, ReLU, GroupNorm) is that of De et al. 2022 (arXiv 2204.13650).
    """

    def __init__(self, *, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            WSConv2d(in_channels, 16, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.GroupNorm(_GROUPS, 16),
            WSConv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.GroupNorm(_GROUPS, 32),
            nn.AdaptiveAvgPool2d(_GRID),
            nn.Flatten(),
        )
        self.head = nn.Linear(32 * _GRID**2, num_classes)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        logits: Tensor = self.head(self.features(x))
        return logits


_WIDE: dict[str, Callable[..., nn.Module]] = {
    "wrn-16-4": partial(WideResNet, 16, 4),
    "wrn-40-4": partial(WideResNet, 40, 4),
}
_MODELS: dict[str, Callable[..., nn.Module]] = {"cnn-small": SmallCNN} | _WIDE

MODEL_NAMES: tuple[str, ...] = tuple(_MODELS)


def build_model(
    name: str, *, in_channels: int, num_classes: int, shortcut: str | None = None
) -> nn.Module:
    """Build a freshly initialised model that maps [B, C, H, W] images to [B, L] logits.

    Args:
        name: one of `MODEL_NAMES`.
        in_channels: C, the number of channels of an image.
        num_classes: L, the number of classes.
        shortcut: for wide ResNets, one of `wide_resnet.SHORTCUTS`; None takes the model's own.
    """
    if name not in _MODELS:
        known = [SCATTER_CNN, *_MODELS]  # a backbone and a head: `runs/network.py` builds it
        raise DpmixError(f"unknown model '{name}': {nearest(name, known)}")
    if shortcut is not None and name not in _WIDE:
        raise DpmixError(
            f"shortcut '{shortcut}': model '{name}' has no shortcut; leave it out, or use "
            f"{', '.join(_WIDE)}"
        )
    options = {} if shortcut is None else {"shortcut": shortcut}
    return _MODELS[name](in_channels=in_channels, num_classes=num_classes, **options)


def parameter_count(model: nn.Module) -> int:
    """Return P, the number of trainable scalars; a shared parameter counts once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
