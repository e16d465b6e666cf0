"""A public backbone with a private head, and which of their weights a run's file holds.

Guarantees that the file of a run holds every weight that private training changed, and no frozen
weight of the backbone: those are public, large, and known by their hash.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError, nearest
from dpmix.models.backbones.backbone import Embedder

# The trainable linear layer on a backbone's features, and the fixed map before it.
#
# Guarantees that the fixed map reads one example's features and public constants alone, and that
# training starts from zero weights: there is nothing of chance in a head.


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


_BACKBONE = "backbone."


class BackboneClassifier(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, L]."""

    def __init__(self, backbone: Embedder, head: LinearHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        logits: Tensor = self.head(self.backbone(x))
        return logits


def trained_state(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a state dict of `model` that does not come with its public backbone."""
    public = public_names(model)
    return {name: tensor for name, tensor in state.items() if name not in public}


def public_names(model: nn.Module) -> set[str]:
    """Names in the state dict of what is frozen in a backbone; none for other models."""
    if not isinstance(model, BackboneClassifier):
        return set()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name for name in model.state_dict() if name.startswith(_BACKBONE)} - trained
