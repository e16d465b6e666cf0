"""How many numbers a private step releases: the P of every per-example gradient."""

from torch import nn


def parameter_count(model: nn.Module) -> int:
    """Return P, the number of trainable scalars; a shared parameter counts once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
