"""Engine `examplewise`: a unit is a batch.

The K views of one unit fill the hardware, so a per-unit gradient is one ordinary forward and
backward pass over them. No hooks and no list of layers: exact for any `nn.Module`, with the memory
of a batch of K images.

Guarantee: a unit's gradient is the same to the bit, whatever other units there are. A processor's
routines round a row by where it lies (its address modulo 64 bytes) and by the number of rows. A
model at a kink, such as a ReLU near zero before large weights, turns such a last bit into another
gradient, so that neighbours could move a unit's gradient by far more than C in all. So every unit
is copied to one buffer and computed there alone, at the same address and with the same number of
rows (`tests/properties/test_unit_isolation.py`). Dropout draws from one stream in the order of the
units.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.clipping.accumulator import ClippedAccumulator
from dpmix.clipping.types import ClippedSum, Loss, per_view_loss, trainable


def portions(
    views: Float[Tensor, "G K *view"], labels: Float[Tensor, "G K L"], units: int
) -> Iterator[tuple[Float[Tensor, "R K *view"], Float[Tensor, "R K L"], int]]:
    """Yield the units in order, R = `units` at a time, always in the same memory.

    With the views and labels comes how many units are real: the others are zeros.
    """
    if not len(views):
        return
    buffers = [
        torch.zeros(units, *given.shape[1:], dtype=given.dtype, device=given.device)
        for given in (views, labels)
    ]
    for some in zip(views.split(units), labels.split(units), strict=True):
        count = len(some[0])
        for buffer, given in zip(buffers, some, strict=True):
            buffer[:count].copy_(given)
            buffer[count:].zero_()
        yield buffers[0], buffers[1], count


def examplewise_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    view_chunk: int | None,
) -> ClippedSum:
    """As `clipped_gradient_sum`, with at most `view_chunk` views in one forward pass."""
    parameters = list(trainable(model).values())
    total = ClippedAccumulator(parameters, max_grad_norm)
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for unit, target, _ in portions(views, labels, 1):
        mean_loss, gradient = _mean_gradient(
            model, loss, unit[0], target[0], parameters, view_chunk
        )
        norms.append(total.add([part[None] for part in gradient]))
        losses.append(mean_loss[None])
    return ClippedSum(total.total, torch.cat(norms), torch.cat(losses), engine="examplewise")


def _mean_gradient(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "K *view"],
    labels: Float[Tensor, "K L"],
    parameters: list[nn.Parameter],
    view_chunk: int | None,
) -> tuple[Float[Tensor, ""], list[Tensor]]:
    """Mean loss of one unit's K views, and its gradient for each of `parameters`.

    The gradient of a mean is the sum of the chunks' gradients, each of its summed loss over K.
    """
    count = len(views)
    mean_loss, gradient = views.new_zeros(()), list[Tensor]()
    size = view_chunk or count
    for chunk, chunk_labels in zip(views.split(size), labels.split(size), strict=True):
        part = per_view_loss(loss, model(chunk), chunk_labels).sum() / count
        # A parameter that this forward pass did not use has gradient zero.
        grads = torch.autograd.grad(part, parameters, allow_unused=True, materialize_grads=True)
        mean_loss = mean_loss + part.detach()
        # Half precision would lose terms of the sum.
        wide = [g.to(torch.promote_types(g.dtype, torch.float32)) for g in grads]
        # Not in place: autograd may return one tensor for two parameters that are added.
        gradient = list(torch._foreach_add(gradient, wide)) if gradient else wide
    return mean_loss, gradient
