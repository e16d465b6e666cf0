"""The trainable linear layer on a backbone's features, and the fixed map before it.

Guarantees that the fixed map reads one example's features and public constants alone, and that
training starts from zero weights: there is nothing of chance in a head.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError, nearest

FeatureNorm = Literal["none", "unit", "whiten"]
_SHORTEST = 1e-12
FEATURE_NORMS: tuple[str, ...] = get_args(FeatureNorm)


class LinearHead(nn.Module):
    """Features [B, D] to logits [B, L].

    Args:
        features: D.
        classes: L.
        norm: `none`; `unit`: each feature vector is scaled to one length, so that no example's
            gradient is longer than another's for its features; `whiten`: moved by public means and
            scaled by public standard deviations first (`set_statistics`), then to that length.
        length: that length. The bias sees a feature of one beside them: at length one it takes half
            of what clipping leaves of a gradient, at length ten a hundredth.

    Raises:
        DpmixError: an unknown norm.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, features: int, classes: int, norm: FeatureNorm = "none", length: float = 1.0
    ) -> None:
        super().__init__()
        if norm not in FEATURE_NORMS:
            raise DpmixError(f"feature_norm is '{norm}': {nearest(norm, FEATURE_NORMS)}")
        self.norm, self.length = norm, length
        if norm == "whiten":
            self.register_buffer("mean", torch.zeros(features))
            self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def set_statistics(self, public: Float[Tensor, "P D"]) -> None:
        """Take the means and standard deviations of PUBLIC images' features for `whiten`."""
        features = public.double()
        std = features.std(dim=0)
        # A feature that is the same for all public images says nothing of any.
        scale = torch.where(std > 1e-6 * std.max(), 1 / std, torch.zeros_like(std))
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(scale)

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        if self.norm == "whiten":
            x = (x - self.mean) * self.scale
        if self.norm != "none":
            x = x * (self.length / x.norm(dim=-1, keepdim=True).clamp(min=_SHORTEST))
        logits: Tensor = self.linear(x)
        return logits
