"""A public backbone with a private head, and which of their weights a run's file holds.

A run's file holds every weight that private training changed and no frozen weight of the backbone.
Those are public, large, and known by their hash.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.backbones.backbone import Embedder
from dpmix.models.scatter_cnn import ScatterCNN

FeatureNorm = Literal["none", "unit", "whiten"]

_SHORTEST = 1e-12
_BACKBONE = "backbone."


class LinearHead(nn.Module):
    """Features [B, D] to logits [B, L]: a fixed map, then a trainable linear layer.

    The fixed map reads one example's features and public constants only. Its weights are zero
    until a start is written into them (`models/prior.py`), so nothing in a head is random.

    Args:
        features: D.
        classes: L.
        norm: `none`; `unit` scales each feature vector to one length; `whiten` does so after public
            means and standard deviations are taken out (`set_statistics`).
        length: that length. The bias sees an extra feature of one: at length one that takes half of
            a clipped gradient, at length ten a hundredth.
    """

    mean: Tensor
    scale: Tensor

    def __init__(
        self, features: int, classes: int, norm: FeatureNorm = "none", length: float = 1.0
    ) -> None:
        super().__init__()
        self.norm, self.length = norm, length
        if norm == "whiten":
            self.register_buffer("mean", torch.zeros(features))
            self.register_buffer("scale", torch.ones(features))
        self.linear = nn.Linear(features, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def set_statistics(self, public: Float[Tensor, "P D"]) -> None:
        """Set means and standard deviations for `whiten` from the features of PUBLIC images."""
        features = public.double()
        std = features.std(dim=0)
        # A feature that is the same for all public images carries no information.
        scale = torch.where(std > 1e-6 * std.max(), 1 / std, torch.zeros_like(std))
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(scale)

    def scaled(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        """Return what the linear layer gets: features after the fixed map."""
        if self.norm == "whiten":
            x = (x - self.mean) * self.scale
        if self.norm != "none":
            x = x * (self.length / x.norm(dim=-1, keepdim=True).clamp(min=_SHORTEST))
        return x

    def forward(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        logits: Tensor = self.linear(self.scaled(x))
        return logits


class BackboneClassifier(nn.Module):
    """Normalised images [B, 3, H, W] to logits [B, L]."""

    def __init__(self, backbone: Embedder, head: LinearHead | ScatterCNN) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B L"]:
        """Return the logits."""
        logits: Tensor = self.head(self.backbone(x))
        return logits


def trained_state(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the part of `model`'s state dict that does not come with its public backbone."""
    public = public_names(model)
    return {name: tensor for name, tensor in state.items() if name not in public}


def public_names(model: nn.Module) -> set[str]:
    """Return the state dict's names of frozen backbone weights; none for other models."""
    if not isinstance(model, BackboneClassifier):
        return set()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return {name for name in model.state_dict() if name.startswith(_BACKBONE)} - trained
