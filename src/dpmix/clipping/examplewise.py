"""Engine `examplewise`: a unit is a batch.

The K views of one unit fill the hardware, so a per-unit gradient is one ordinary forward and
backward over them. No hooks and no list of layers: exact for any `nn.Module`, at the memory of a
K-image batch.

Guarantee: a unit's gradient is the same to the bit, whatever other units there are. Each unit is
copied to one buffer and computed there by itself, so that even the addresses are the same
(`tests/properties/test_unit_isolation.py`). Dropout draws from one stream in the order of the
units.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.clipping.accumulator import ClippedAccumulator
from dpmix.clipping.types import ClippedSum, Loss, gradient_dtype, trainable
from dpmix.errors import DpmixError

# One buffer through which every unit passes: the same addresses and the same number of rows.
#
# A processor's routines round a row by where it lies (its address modulo 64 bytes) and by how many
# rows there are. A model at a kink, such as a ReLU near zero under large weights, turns such a
# last bit into another gradient. So a unit that is computed where its neighbours leave room for it
# moves with them, by far more than C in all.
#
# Guarantee: a unit is computed at an address and with a number of rows that are functions of
# public shapes alone. The rows that no unit fills are zeros. With one unit at a time, all of its
# computation is then the same for any neighbours (`tests/properties/test_unit_isolation.py`); with
# several, its place is left, which `place_probe` tries.


def portions(
    views: Float[Tensor, "G K *view"], labels: Float[Tensor, "G K L"], units: int
) -> Iterator[tuple[Float[Tensor, "R K *view"], Float[Tensor, "R K L"], int]]:
    """Yield the units in order, R = `units` at a time, always in the same memory.

    Yields:
        views and labels of R units, and how many of them are real: the rest are zeros. The next
        portion overwrites them.
    """
    if not len(views):
        return
    held, held_labels = (
        torch.zeros(units, *given.shape[1:], dtype=given.dtype, device=given.device)
        for given in (views, labels)
    )
    for some, some_labels in zip(views.split(units), labels.split(units), strict=True):
        count = len(some)
        for buffer, given in ((held, some), (held_labels, some_labels)):
            buffer[:count].copy_(given)
            buffer[count:].zero_()
        yield held, held_labels, count


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
