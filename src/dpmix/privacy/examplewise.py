"""Engine `examplewise`: an example is a batch.

The K views of one example fill the hardware, so a per-example gradient is one ordinary forward and
backward over them. No hooks and no list of layers: exact for any `nn.Module`, at the memory of a
K-image batch. Nothing crosses from one example to the next, dropout's coins included.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.privacy.clipping import (
    ClippedSum,
    Loss,
    gradient_dtype,
    sum_dtype,
    trainable,
    zero_sum,
)


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
    total = zero_sum(parameters)
    norms, losses = [], []
    for group_views, group_labels in zip(views, labels, strict=True):
        mean_loss, gradient = mean_gradient(
            model, loss, group_views, group_labels, parameters, view_chunk
        )
        norms.append(add_clipped(total, gradient, max_grad_norm))
        losses.append(mean_loss)
    empty = views.new_zeros(0)
    return ClippedSum(
        gradients=total,
        norms=torch.stack(norms) if norms else empty,
        losses=torch.stack(losses) if losses else empty,
        engine="examplewise",
    )


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


def add_clipped(total: list[Tensor], gradient: list[Tensor], max_grad_norm: float) -> Tensor:
    """Add `gradient * min(1, C / norm)` to `total` in place; return the norm.

    A gradient that is not finite adds zero. On an accelerator no value is read back: multiplying
    by zero would keep a NaN, so the entries are replaced there.
    """
    norm = global_norm(gradient)
    root = clip_root(norm, max_grad_norm)
    if norm.device.type == "cpu":
        scale = root.item()
        if scale > 0.0:
            torch._foreach_add_(total, torch._foreach_mul(gradient, scale), alpha=scale)
        return norm
    clean = [torch.where(root > 0, g, torch.zeros_like(g)) for g in gradient]
    torch._foreach_mul_(clean, root)
    torch._foreach_mul_(clean, root)
    torch._foreach_add_(total, clean)
    return norm


def clip_root(norms: Float[Tensor, "*G"], max_grad_norm: float) -> Float[Tensor, "*G"]:
    """Square root of the clipping factor min(1, C / norm); 0 where the norm is not finite.

    To be multiplied by twice. The factor itself can lie below float32's smallest normal number,
    where it has few bits left, and a factor that is rounded up lets through more than C.
    """
    root = (max_grad_norm / norms).clamp(max=1.0).sqrt()
    return torch.where(torch.isfinite(norms), root, 0.0)


def global_norm(gradient: list[Tensor]) -> Float[Tensor, ""]:
    """Euclidean norm over all tensors together, accumulated in float64 where the device has it.

    A float32 accumulation over millions of entries comes out up to 5e-5 too small, and a norm that
    is too small clips too little.
    """
    dtype = sum_dtype(gradient[0].device)
    norm: Tensor = torch.linalg.vector_norm(
        torch.stack(torch._foreach_norm(gradient, 2, dtype=dtype))
    )
    return norm
