"""BatchNorm of a pretrained network as what it is in eval mode: a fixed scale and shift.

Guarantees that the folded network computes what the original does in eval mode, and that nothing in
it keeps or reads the statistics of a batch. Its scale and shift can be trained privately.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dpmix.errors import DpmixError


class ChannelAffine(nn.Module):
    """x * weight + bias, per channel (dimension 1)."""

    def __init__(self, weight: Float[Tensor, " C"], bias: Float[Tensor, " C"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
        """Return the scaled and shifted input."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        # One pass over the input where a product and a sum would be two.
        return torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))


def fold_batch_norm(module: nn.Module) -> None:
    """Replace, in place, every BatchNorm below `module` by the affine map of its eval mode.

    What a fused layer does after its normalisation (timm's `BatchNormAct2d`) is kept.

    Raises:
        DpmixError: a BatchNorm without running statistics, which has nothing to fold.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _folded(child, name))
        else:
            fold_batch_norm(child)


@torch.no_grad()
def _folded(layer: _BatchNorm, name: str) -> nn.Module:
    mean, var = layer.running_mean, layer.running_var
    if mean is None or var is None:
        raise DpmixError(
            f"layer '{name}' ({type(layer).__name__}) has no running statistics, so it mixes the "
            "images of a batch; choose a backbone without it"
        )
    scale = torch.rsqrt(var.double() + layer.eps)
    if layer.weight is not None:
        scale = scale * layer.weight.double()
    shift = -mean.double() * scale
    if layer.bias is not None:
        shift = shift + layer.bias.double()
    affine = ChannelAffine(scale.to(mean.dtype), shift.to(mean.dtype))
    after = list(layer.children())
    return nn.Sequential(affine, *after) if after else affine
