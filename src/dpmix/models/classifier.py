"""A public backbone with a private head, and which of their weights a run's file holds.

Guarantees that the file of a run holds every weight that private training changed, and no frozen
weight of the backbone: those are public, large, and known by their hash.
"""

from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.backbone import Embedder
from dpmix.models.head import LinearHead

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
