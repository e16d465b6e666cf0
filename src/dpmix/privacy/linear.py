"""Engine `linear`: for a model of which the last linear layer alone is trained, such as a head.

With features x_k and residuals r_k (the loss's derivative by the logits), the gradient of an
example's mean loss is the mean of the outer products r_k x_k^T, so it is one small matrix product
an example and no backward pass. A handful of examples at a time stay in the processor's cache.

It is exact but for rounding: as under `vmap`, the logits of several examples are one float32
product, whose last bits may depend on how many rows it has. On the CPUs tried only a row by itself
takes another routine, so it is never multiplied by itself; a GPU's library chooses by shape. An
example's own pass (`examplewise`) has no such neighbours.

With one view that gradient is never written down: its norm is the product of the two vectors' norms
and the clipped sum is one matrix product over the examples (ghost clipping: Li et al. 2022, arXiv
2110.05679, section 4). With several views the same norm is a sum of products of either sign, which
may cancel and come out too small, so that too little would be clipped: there each gradient is
computed and measured.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.privacy.clipped_accumulator import ClippedAccumulator, clip_root, sum_dtype
from dpmix.privacy.clipping import ClippedSum, Loss
from dpmix.privacy.examplewise import per_view_loss
from dpmix.privacy.vectorized import not_alone
from dpmix.training.loss import soft_cross_entropy

# Numbers of per-example gradients at once: megabytes on a CPU, what fills the device elsewhere.
_CPU_NUMBERS, _DEVICE_NUMBERS = 1 << 20, 1 << 25


def trained_linear(model: nn.Module) -> nn.Linear | None:
    """The linear layer that holds all that is trained, if there is one.

    A plain one: what computes its weight from other parameters (weight norm) or changes its input
    has other gradients.
    """
    owners = [
        module
        for module in model.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    layer = owners[0] if len(owners) == 1 else None
    if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
        return None
    own = {name for name, _ in layer.named_parameters()}
    plain = own in ({"weight"}, {"weight", "bias"}) and not layer._forward_pre_hooks
    return layer if plain and all(p.requires_grad for p in layer.parameters()) else None


def not_linear() -> DpmixError:
    """The error for a model that this engine is not for."""
    return DpmixError(
        "engine linear is for models of which the last linear layer alone is trained; use "
        "--engine auto"
    )


def linear_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    example_chunk: int | None,
) -> ClippedSum:
    """As `clipped_gradient_sum`; `example_chunk` bounds the examples of one pass.

    Raises:
        DpmixError: a model whose logits are not the output of its only trained layer.
    """
    layer = trained_linear(model)
    if layer is None:
        raise not_linear()
    numbers = _CPU_NUMBERS if views.device.type == "cpu" else _DEVICE_NUMBERS
    parameters = list(layer.parameters())
    one_view = views.shape[1] == 1
    held = layer.in_features if one_view else sum(p.numel() for p in parameters)
    chunk = example_chunk or max(1, numbers // held)
    total = ClippedAccumulator(parameters, max_grad_norm)
    sums = total.total
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some_views, some_labels in zip(views.split(chunk), labels.split(chunk), strict=True):
        if not len(some_views):
            continue
        features, residuals, values = _residuals(model, layer, loss, some_views, some_labels)
        if one_view:
            norms.append(_add_outer(sums, residuals[:, 0], features[:, 0], max_grad_norm))
        else:
            gradients = [torch.bmm(residuals.transpose(1, 2), features)]
            if layer.bias is not None:
                gradients.append(residuals.sum(dim=1))
            norms.append(total.add(gradients))
        losses.append(values)
    return ClippedSum(sums, torch.cat(norms), torch.cat(losses), engine="linear")


def _add_outer(
    total: list[Tensor],
    residuals: Float[Tensor, "G L"],
    features: Float[Tensor, "G D"],
    max_grad_norm: float,
) -> Float[Tensor, " G"]:
    """Add the clipped outer products r x^T, and r for a bias, to `total`; return their norms."""
    dtype = sum_dtype(features.device)
    residuals, features = residuals.to(dtype), features.to(dtype)
    if len(total) == 2:
        features = torch.cat([features, features.new_ones(len(features), 1)], dim=1)
    norms: Tensor = torch.linalg.vector_norm(residuals, dim=1) * torch.linalg.vector_norm(
        features, dim=1
    )
    root = clip_root(norms, max_grad_norm)[:, None]
    clipped = torch.where(root > 0, residuals * root, 0.0).T @ torch.where(
        root > 0, features * root, 0.0
    )
    total[0] += clipped[:, : total[0].shape[1]]
    if len(total) == 2:
        total[1] += clipped[:, -1]
    return norms


def _residuals(
    model: nn.Module,
    layer: nn.Linear,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
) -> tuple[Float[Tensor, "G K D"], Float[Tensor, "G K L"], Float[Tensor, " G"]]:
    """The layer's inputs, the mean loss's derivative by its outputs, and the mean loss."""
    groups, count = views.shape[:2]
    rows = groups * count
    features, logits = _forward(model, layer, not_alone(views.flatten(0, 1)))
    features, logits = features[:rows], logits[:rows].requires_grad_(True)
    shape = (groups, count, -1)
    per_view = _losses(loss, logits.view(shape), labels)
    (residuals,) = torch.autograd.grad(per_view.sum(), logits)
    mean_loss = per_view.detach().mean(dim=1)
    return features.view(shape), residuals.view(shape) / count, mean_loss


def _losses(
    loss: Loss, logits: Float[Tensor, "G K L"], labels: Float[Tensor, "G K L"]
) -> Float[Tensor, "G K"]:
    """Each view's loss. One that is not ours is given one example at a time.

    It may look at all rows that it sees, such as for the frequencies of labels, and those are then
    an example's own.
    """
    if loss is soft_cross_entropy:
        together = per_view_loss(loss, logits.flatten(0, 1), labels.flatten(0, 1))
        return together.view(logits.shape[:2])
    pairs = zip(logits, labels, strict=True)
    return torch.stack([per_view_loss(loss, row, its_labels) for row, its_labels in pairs])


def _forward(
    model: nn.Module, layer: nn.Linear, views: Float[Tensor, "V *view"]
) -> tuple[Float[Tensor, "V D"], Float[Tensor, "V L"]]:
    """What goes into the layer and what the model returns, which must be what comes out of it."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layer.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    try:
        with torch.no_grad():
            logits = model(views)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0][1] is not logits:
        raise DpmixError(
            f"engine linear: the output of {type(model).__name__} is not that of its trained "
            "linear layer; use --engine examplewise"
        )
    return seen[0][0], logits
