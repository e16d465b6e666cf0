"""Engine `vectorized`: `torch.func.vmap` over several units, for few views or linear layers.

`vmap` keeps units apart as a function. To the bit it does so where a probe has seen it (see
`place_probe`): units are computed R at a time in one buffer, with zeros where there are fewer, so
that only a unit's place among the R can matter. Dropout draws different numbers for each unit.
Memory holds one gradient for each of the R units.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dpmix.clipping.accumulator import ClippedAccumulator
from dpmix.clipping.examplewise import portions
from dpmix.clipping.types import ClippedSum, Loss, per_view_loss, trainable

# Most numbers in the per-unit gradients held at once (64 MiB of float32).
MAX_GRADIENT_NUMBERS = 1 << 24
# Most views in one vmap. On a CPU the activations of more views leave its caches; on a GPU a larger
# portion would be filled with more zeros.
MAX_CPU_VIEWS, MAX_DEVICE_VIEWS = 128, 1024


def vectorized_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    units: int,
) -> ClippedSum:
    """As `clipped_gradient_sum`, computing R = `units` units at a time."""
    total = ClippedAccumulator(list(trainable(model).values()), max_grad_norm)
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some, targets, count in portions(views, labels, units):
        gradients, values, _ = _per_unit(model, loss, some, targets)
        norms.append(total.add(gradients, count))
        losses.append(values[:count])
    return ClippedSum(total.total, torch.cat(norms), torch.cat(losses), engine="vectorized")


def vectorized_units(model: nn.Module, views: Float[Tensor, "G K *view"]) -> int:
    """R, the units computed at a time: a function of the model and of the shape of a unit."""
    numbers = sum(p.numel() for p in trainable(model).values())
    most = MAX_CPU_VIEWS if views.device.type == "cpu" else MAX_DEVICE_VIEWS
    return max(1, min(MAX_GRADIENT_NUMBERS // max(1, numbers), most // views.shape[1]))


def vectorized_numbers(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
    alike: bool,
) -> list[Float[Tensor, "R ..."]]:
    """Gradients, losses and logits of each unit; `alike` uses the same dropout for all units."""
    randomness = "same" if alike else "different"
    gradients, values, logits = _per_unit(model, loss, views, labels, randomness)
    return [*gradients, values, logits]


def _per_unit(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
    randomness: str = "different",
) -> tuple[list[Float[Tensor, "R ..."]], Float[Tensor, " R"], Float[Tensor, "R K L"]]:
    """Each unit's gradient (by parameter), mean loss, and logits."""

    def mean_loss(values: dict[str, Tensor], unit: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional_call(model, values, (unit,))
        return per_view_loss(loss, logits, target).mean(), logits.detach()

    parameters = {name: p.detach() for name, p in trainable(model).items()}
    per_unit: Callable[..., tuple[dict[str, Tensor], tuple[Tensor, Tensor]]] = vmap(
        grad_and_value(mean_loss, has_aux=True), in_dims=(None, 0, 0), randomness=randomness
    )
    gradients, (values, logits) = per_unit(parameters, views, labels)
    return list(gradients.values()), values.detach(), logits
