"""Engine `linear`: for a model of which only the last linear layer is trained, such as a head.

With features x_k and residuals r_k (the loss's derivative by the logits), the gradient of a unit's
mean loss is the mean of the outer products r_k x_k^T: one small matrix product per unit and no
backward pass. A few units at a time stay in the processor's cache.

The logits of several units are one float32 product, whose last bits may depend on a row's address
and on the number of rows. So units are computed R at a time in one buffer, with zeros where there
are fewer, and rows are padded to whole cache lines; a probe checks the rest (see `place_probe`).

With one view that gradient is never written: its norm is the product of the two vectors' norms
(ghost clipping: Li et al. 2022, arXiv 2110.05679, section 4). With several views that norm would be
a sum of products of either sign, which may come out too small, so that too little is clipped: there
each gradient is computed and measured.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.clipping.accumulator import ClippedAccumulator, clip_root, sum_dtype
from dpmix.clipping.examplewise import portions
from dpmix.clipping.types import ClippedSum, Loss, per_view_loss, soft_cross_entropy
from dpmix.errors import DpmixError

# Most numbers in the per-unit gradients held at once: megabytes on a CPU, more on a device.
_CPU_NUMBERS, _DEVICE_NUMBERS = 1 << 20, 1 << 25
# Most units at once: with more, the zeros that fill a small batch would take longer.
_MOST_UNITS = 64
_LINE = 16  # numbers in 64 bytes of float32, a cache line


class _Pass(NamedTuple):
    features: Float[Tensor, "R K E"]  # inputs of the layer, padded to whole cache lines
    logits: Float[Tensor, "R K L"]
    residuals: Float[Tensor, "R K L"]  # derivative of each unit's mean loss by its logits
    losses: Float[Tensor, " R"]  # each unit's mean loss


def trained_linear(model: nn.Module) -> nn.Linear:
    """The plain linear layer that holds all trained parameters.

    A layer that computes its weight from other parameters (weight norm), or a hook that changes its
    input, has other gradients.

    Raises:
        DpmixError: there is none.
    """
    owners = [
        module
        for module in model.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    layer = owners[0] if len(owners) == 1 else None
    if isinstance(layer, nn.Linear) and type(layer) is nn.Linear and not layer._forward_pre_hooks:
        own = dict(layer.named_parameters())
        if set(own) <= {"weight", "bias"} and all(p.requires_grad for p in own.values()):
            return layer
    raise DpmixError(
        "engine linear is for models of which the last linear layer alone is trained; use "
        "--engine auto"
    )


def linear_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    units: int,
) -> ClippedSum:
    """As `clipped_gradient_sum`, computing R = `units` units at a time."""
    layer = trained_linear(model)
    total = ClippedAccumulator(list(layer.parameters()), max_grad_norm)
    sums = total.total
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some, targets, count in portions(views, labels, units):
        seen = _passed(model, layer, loss, some, targets)
        if views.shape[1] == 1:
            features = seen.features[:, 0, : layer.in_features]
            norms.append(_add_outer(sums, seen.residuals[:, 0], features, max_grad_norm, count))
        else:
            norms.append(total.add(_gradients(layer, seen), count))
        losses.append(seen.losses[:count])
    return ClippedSum(sums, torch.cat(norms), torch.cat(losses), engine="linear")


def linear_units(model: nn.Module, views: Float[Tensor, "G K *view"]) -> int:
    """R, the units computed at a time: a function of the model and of the shape of a unit."""
    layer = trained_linear(model)
    numbers = _CPU_NUMBERS if views.device.type == "cpu" else _DEVICE_NUMBERS
    one_view = views.shape[1] == 1
    held = layer.in_features if one_view else sum(p.numel() for p in layer.parameters())
    return max(1, min(_MOST_UNITS, numbers // held))


def linear_numbers(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
    alike: bool,
) -> list[Float[Tensor, "R ..."]]:
    """Every number computed for each unit; there is no dropout, so units are always `alike`."""
    layer = trained_linear(model)
    seen = _passed(model, layer, loss, views, labels)
    # With one view no gradient is written down.
    return [*seen, *(_gradients(layer, seen) if views.shape[1] > 1 else ())]


def _gradients(layer: nn.Linear, seen: _Pass) -> list[Float[Tensor, "R ..."]]:
    weight = torch.bmm(seen.residuals.transpose(1, 2), seen.features)[:, :, : layer.in_features]
    return [weight] if layer.bias is None else [weight, seen.residuals.sum(dim=1)]


def _add_outer(
    total: list[Tensor],
    residuals: Float[Tensor, "R L"],
    features: Float[Tensor, "R D"],
    max_grad_norm: float,
    count: int,
) -> Float[Tensor, " G"]:
    """Add the first `count` clipped outer products r x^T, and r for a bias; return their norms."""
    dtype = sum_dtype(features.device)
    residuals, features = residuals.to(dtype), features.to(dtype)
    if len(total) == 2:
        features = F.pad(features, (0, 1), value=1.0)
    lengths = [torch.linalg.vector_norm(rows, dim=1) for rows in (residuals, features)]
    norms: Tensor = lengths[0] * lengths[1]
    roots = clip_root(norms, max_grad_norm)
    roots[count:] = 0.0
    root = roots[:, None]
    left, right = (torch.where(root > 0, rows * root, 0.0) for rows in (residuals, features))
    clipped = left.T @ right
    total[0] += clipped[:, : total[0].shape[1]]
    if len(total) == 2:
        total[1] += clipped[:, -1]
    return norms[:count]


def _passed(
    model: nn.Module,
    layer: nn.Linear,
    loss: Loss,
    views: Float[Tensor, "R K *view"],
    labels: Float[Tensor, "R K L"],
) -> _Pass:
    shape = (*views.shape[:2], -1)
    features, logits = _forward(model, layer, views.flatten(0, 1))
    logits.requires_grad_(True)
    per_view = _losses(loss, logits.view(shape), labels)
    (residuals,) = torch.autograd.grad(per_view.sum(), logits)
    return _Pass(
        features=features.view(shape),
        logits=logits.detach().view(shape),
        residuals=residuals.view(shape) / views.shape[1],
        losses=per_view.detach().mean(dim=1),
    )


def _losses(
    loss: Loss, logits: Float[Tensor, "R K L"], labels: Float[Tensor, "R K L"]
) -> Float[Tensor, "R K"]:
    """Each view's loss. A custom loss gets one unit at a time.

    It may look at all its rows, such as for the frequencies of labels: they are then one unit's.
    The rows are cloned so that their address does not depend on the unit's place.
    """
    if loss is soft_cross_entropy:
        together = per_view_loss(loss, logits.flatten(0, 1), labels.flatten(0, 1))
        return together.view(logits.shape[:2])
    pairs = zip(logits, labels, strict=True)
    return torch.stack(
        [per_view_loss(loss, row.clone(), its_labels.clone()) for row, its_labels in pairs]
    )


def _forward(
    model: nn.Module, layer: nn.Linear, views: Float[Tensor, "V *view"]
) -> tuple[Float[Tensor, "V E"], Float[Tensor, "V L"]]:
    """The layer's padded inputs, and its outputs, which must be what the model returns."""
    seen: list[tuple[Tensor, Tensor]] = []

    def padded(given: Tensor) -> Tensor:
        padding = (0, -layer.in_features % _LINE)
        rows, weight = (F.pad(x, padding) if padding[1] else x for x in (given, layer.weight))
        seen.append((rows, F.linear(rows, weight, layer.bias)))
        return seen[-1][1]

    vars(layer)["forward"] = padded
    try:
        with torch.no_grad():
            logits = model(views)
    finally:
        del vars(layer)["forward"]
    if len(seen) != 1 or seen[0][1] is not logits:
        raise DpmixError(
            f"engine linear: the output of {type(model).__name__} is not that of its trained "
            "linear layer; use --engine examplewise"
        )
    return seen[0]
