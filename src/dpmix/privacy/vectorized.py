"""Engine `vectorized`: `torch.func` over a chunk of examples, for small K and small models.

`vmap` keeps examples apart by construction; dropout draws fresh coins for each example. Memory is
one gradient per example of the chunk.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dpmix.out_of_memory import is_out_of_memory
from dpmix.privacy.clipped_accumulator import ClippedAccumulator
from dpmix.privacy.clipping import CannotRunError, ClippedSum, Loss, trainable
from dpmix.privacy.examplewise import per_view_loss

# Bound on the per-example gradients held at once, in numbers (128 MiB of float32).
MAX_GRADIENT_NUMBERS = 1 << 25
# Bound on the views of one vmap on a CPU: the activations of more of them leave its caches, and go
# through buffers that the C library takes from the system and gives back at every operation.
MAX_CPU_VIEWS = 256


def vectorized_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    example_chunk: int | None,
) -> ClippedSum:
    """As `clipped_gradient_sum`; `example_chunk` bounds the examples of one vmap."""
    trained = trainable(model)
    parameters = {name: p.detach() for name, p in trained.items()}
    chunk = example_chunk or _fitting_examples(views, sum(p.numel() for p in parameters.values()))

    def mean_loss(values: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        return per_view_loss(loss, functional_call(model, values, (example,)), target).mean()

    per_example = vmap(grad_and_value(mean_loss), in_dims=(None, 0, 0), randomness="different")
    total = ClippedAccumulator(list(trained.values()), max_grad_norm)
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some_views, some_labels in zip(views.split(chunk), labels.split(chunk), strict=True):
        if not len(some_views):
            continue
        try:
            gradients, values = per_example(
                parameters, not_alone(some_views), not_alone(some_labels)
            )
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise CannotRunError(
                "engine vectorized cannot run this model: "
                f"{str(error).splitlines()[0]}; use engine 'examplewise'"
            ) from error
        count = len(some_views)
        norms.append(total.add([gradient[:count] for gradient in gradients.values()]))
        losses.append(values[:count].detach())
    return ClippedSum(total.total, torch.cat(norms), torch.cat(losses), engine="vectorized")


def _fitting_examples(views: Float[Tensor, "G K *view"], gradient_numbers: int) -> int:
    fitting = MAX_GRADIENT_NUMBERS // gradient_numbers
    if views.device.type == "cpu":
        fitting = min(fitting, MAX_CPU_VIEWS // views.shape[1])
    return max(1, fitting)


def not_alone(rows: Float[Tensor, "R *shape"]) -> Float[Tensor, "S *shape"]:
    """The rows; twice, where there is one.

    A CPU multiplies a single row by another routine than one among several, with other last bits,
    which large weights make a large part of the gradient. An example that loses its neighbour
    would then give another gradient, which is more than that neighbour's share of the sum.
    """
    return rows.repeat(2, *([1] * (rows.ndim - 1))) if len(rows) == 1 else rows
