"""Models by name.

A model is one file and one line of the table below. A wrong name, size or option is refused before
anything is built.
"""

from collections.abc import Callable
from functools import partial

from torch import nn

from dpmix.errors import DpmixError, nearest
from dpmix.models.cnn_small import SmallCNN
from dpmix.models.wide_resnet import WideResNet

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
        in_channels: C, at least 1.
        num_classes: L, at least 2.
        shortcut: for wide ResNets, one of `wide_resnet.SHORTCUTS`; None takes the model's own.

    Raises:
        DpmixError: the name or shortcut is unknown, the model has no shortcut, or a size is too
            small.
    """
    if name not in _MODELS:
        raise DpmixError(f"unknown model '{name}': {nearest(name, _MODELS)}")
    if in_channels < 1:
        raise DpmixError(f"in_channels {in_channels}: expected at least 1")
    if num_classes < 2:
        raise DpmixError(f"num_classes {num_classes}: expected at least 2")
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
