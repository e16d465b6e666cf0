"""The loss of single views."""

from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from dpmix.errors import DpmixError

# Maps logits [K, L] and soft labels [K, L] to one loss per view, [K].
Loss = Callable[[Tensor, Tensor], Tensor]


def soft_cross_entropy(
    logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Cross-entropy with soft labels, one value per view."""
    return F.cross_entropy(logits, labels, reduction="none")


def per_view_loss(
    loss: Loss, logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Apply `loss` and check that it returns one value per view.

    Raises:
        DpmixError: it returns another shape.
    """
    values = loss(logits, labels)
    if values.shape != labels.shape[:1]:
        raise DpmixError(
            f"the loss returned shape {list(values.shape)} for {len(labels)} views; expected one "
            "value per view: use reduction='none'"
        )
    return values
