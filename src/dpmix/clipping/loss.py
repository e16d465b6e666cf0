"""The training loss: soft-label cross-entropy, one value per view."""

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor


def soft_cross_entropy(
    logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Cross-entropy of soft labels; the engine averages it over an example's K views."""
    return F.cross_entropy(logits, labels, reduction="none")
