"""Engine `examplewise`: a unit is a batch.

The K views of one unit fill the hardware, so a per-unit gradient is one ordinary forward and
backward over them. No hooks and no list of layers: exact for any `nn.Module`, at the memory of a
K-image batch.

Guarantee: a unit's gradient is the same to the bit, whatever other units there are. Each unit is
copied to one buffer and computed there by itself, so that even the addresses are the same
(`tests/properties/test_unit_isolation.py`). Dropout draws from one stream in the order of the
units.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.privacy.clipped_accumulator import ClippedAccumulator
from dpmix.privacy.clipping import ClippedSum, Loss, gradient_dtype, trainable
from dpmix.privacy.unit_buffer import portions


def examplewise_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    view_chunk: int | None,
) -> ClippedSum:
    """As `clipped_gradient_sum`; `view_chunk` bounds the views of one forward pass, exactly."""
    parameters = list(trainable(model).values())
    total = ClippedAccumulator(parameters, max_grad_norm)
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for unit, target, _ in portions(views, labels, 1):
        mean_loss, gradient = mean_gradient(model, loss, unit[0], target[0], parameters, view_chunk)
        norms.append(total.add([part[None] for part in gradient]))
        losses.append(mean_loss[None])
    return ClippedSum(total.total, torch.cat(norms), torch.cat(losses), engine="examplewise")


def mean_gradient(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "K *view"],
    labels: Float[Tensor, "K L"],
    parameters: list[nn.Parameter],
    view_chunk: int | None,
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """Mean loss over K views and its gradient, by chunks of views where memory asks.

    The gradient of a mean is the sum of the chunks' gradients, each of its summed loss over K.
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
        wide = [g.to(gradient_dtype(g)) for g in grads]
        # Not in place: autograd may return one tensor for two parameters that are added up.
        gradient = list(torch._foreach_add(gradient, wide)) if gradient else wide
    return mean_loss, gradient


def per_view_loss(
    loss: Loss, logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Apply `loss` and hold it to one value per view."""
    values = loss(logits, labels)
    if values.shape != labels.shape[:1]:
        raise DpmixError(
            f"the loss returned shape {list(values.shape)} for {len(labels)} views; expected one "
            "value per view: use reduction='none'"
        )
    return values
