"""The loss of single views, and the gradient of a unit's mean loss."""

from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

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


def mean_gradient(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "K *view"],
    labels: Float[Tensor, "K L"],
    parameters: list[nn.Parameter],
    view_chunk: int | None,
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """Mean loss of one unit's K views, and its gradient for each of `parameters`.

    The gradient of a mean is the sum of the chunks' gradients, each of its summed loss over K, so
    that `view_chunk` (views per pass, None for all) changes memory only.
    """
    count = len(views)
    mean_loss, gradient = views.new_zeros(()), list[Tensor]()
    for chunk, chunk_labels in zip(
        views.split(view_chunk or count), labels.split(view_chunk or count), strict=True
    ):
        part = per_view_loss(loss, model(chunk), chunk_labels).sum() / count
        # A parameter that this forward pass did not use has gradient zero.
        grads = torch.autograd.grad(part, parameters, allow_unused=True, materialize_grads=True)
        mean_loss = mean_loss + part.detach()
        # Half precision would lose terms of the sum.
        wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in grads]
        # Not in place: autograd may return one tensor for two parameters that are added.
        gradient = list(torch._foreach_add(gradient, wide)) if gradient else wide
    return mean_loss, gradient
