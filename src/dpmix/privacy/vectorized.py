"""Engine `vectorized`: `torch.func` over a chunk of examples, for small K and small models.

`vmap` keeps examples apart by construction; dropout draws fresh coins for each example. Memory is
one gradient per example of the chunk.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from dpmix.errors import DpmixError
from dpmix.privacy.clipping import (
    ClippedSum,
    Loss,
    sum_dtype,
    trainable,
    zero_sum,
)
from dpmix.privacy.examplewise import clip_root, per_view_loss

# Bound on the per-example gradients held at once, in numbers (128 MiB of float32).
MAX_GRADIENT_NUMBERS = 1 << 25


class CannotVectorizeError(DpmixError):
    """The model does what `vmap` cannot: it looks at values, or draws coins in place."""


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
    chunk = example_chunk or max(
        1, MAX_GRADIENT_NUMBERS // sum(p.numel() for p in parameters.values())
    )

    def mean_loss(values: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        return per_view_loss(loss, functional_call(model, values, (example,)), target).mean()

    per_example = vmap(grad_and_value(mean_loss), in_dims=(None, 0, 0), randomness="different")
    total = zero_sum(list(trained.values()))
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some_views, some_labels in zip(views.split(chunk), labels.split(chunk), strict=True):
        if not len(some_views):
            continue
        try:
            gradients, values = per_example(
                parameters, not_alone(some_views), not_alone(some_labels)
            )
        except RuntimeError as error:
            raise CannotVectorizeError(
                "engine vectorized cannot run this model: "
                f"{str(error).splitlines()[0]}; use engine 'examplewise'"
            ) from error
        count = len(some_views)
        kept = [gradient[:count] for gradient in gradients.values()]
        norms.append(add_clipped(total, kept, max_grad_norm))
        losses.append(values[:count].detach())
    return ClippedSum(total, torch.cat(norms), torch.cat(losses), engine="vectorized")


def not_alone(rows: Float[Tensor, "R *shape"]) -> Float[Tensor, "S *shape"]:
    """The rows; twice, where there is one.

    A CPU multiplies a single row by another routine than one among several, with other last bits,
    which large weights make a large part of the gradient. An example that loses its neighbour
    would then give another gradient, which is more than that neighbour's share of the sum.
    """
    return rows.repeat(2, *([1] * (rows.ndim - 1))) if len(rows) == 1 else rows


def add_clipped(
    total: list[Tensor], gradients: list[Tensor], max_grad_norm: float
) -> Float[Tensor, " G"]:
    """Clip each row over all tensors together, add the rows to `total`; return their norms."""
    dtype = sum_dtype(gradients[0].device)
    rows = [g.reshape(len(g), -1).to(dtype) for g in gradients]
    norms: Tensor = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(row, dim=1) for row in rows]), dim=0
    )
    root = clip_root(norms, max_grad_norm)
    whole = bool(root.all())
    for row, accumulator in zip(rows, total, strict=True):
        clean = row if whole else torch.where(root[:, None] > 0, row, 0.0)
        accumulator += _weighted(root, clean).view_as(accumulator)
    return norms


def _weighted(root: Float[Tensor, " G"], rows: Float[Tensor, "G P"]) -> Float[Tensor, " P"]:
    """Sum of the rows, each multiplied by its root twice; in float64 their product is safe."""
    if root.dtype == torch.float64:
        return (root * root) @ rows
    return root @ (rows * root[:, None])
