"""Engine `linear`: for a model of which only the last linear layer is trained, such as a head.

With features x_k and residuals r_k (the loss's derivative by the logits), the gradient of a unit's
mean loss is the mean of the outer products r_k x_k^T: one small matrix product per unit and no
backward pass. A few units at a time stay in the processor's cache.

The logits of several units are one float32 product, whose last bits may depend on a row's address
and on the number of rows. So units are computed R at a time in one buffer, with zeros where there
are fewer, and rows are padded to whole cache lines; a probe checks the rest (see `place_probe`).

With few views that gradient is never written. Its squared norm is the sum over pairs of views of
(r_k . r_j)(x_k . x_j) (ghost clipping: Li et al. 2022, arXiv 2110.05679, section 4), and the sum of
the clipped gradients is one product over all views of all units. Where the terms cancel, such a
norm may come out too small, and too little would be clipped. So it is taken in float64, all that
rounding can have lost is added to it, and it is never below 2^-10 of S, the sum of the views' own
norms: what is clipped by it is at most C long (`longest_norms`). With many views, or on a device
without float64, each gradient is written and measured.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.clipping.accumulator import ClippedAccumulator, clip_root, sum_dtype
from dpmix.clipping.examplewise import portions
from dpmix.clipping.types import ClippedSum, Loss, unit_losses
from dpmix.errors import DpmixError

# Most numbers held at once for R units: megabytes on a CPU, more on a device.
_CPU_NUMBERS, _DEVICE_NUMBERS = 1 << 20, 1 << 25
# Most units at once: with more, the zeros that fill a small batch would take longer.
_MOST_UNITS = 256
_LINE = 16  # numbers in 64 bytes of float32, a cache line
# Writing a gradient down costs about as much as this many multiplications for each of its numbers.
_WRITING = 4
_LEAST_SHARE = 2.0**-10


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
    sums, written = total.total, _written(layer, views)
    norms, losses = [views.new_zeros(0)], [views.new_zeros(0)]
    for some, targets, count in portions(views, labels, units):
        seen = _passed(model, layer, loss, some, targets)
        if written:
            norms.append(total.add(_gradients(layer, seen), count))
        else:
            norms.append(_add_products(layer, sums, seen, max_grad_norm, count))
        losses.append(seen.losses[:count])
    return ClippedSum(sums, torch.cat(norms), torch.cat(losses), engine="linear")


def linear_units(model: nn.Module, views: Float[Tensor, "G K *view"]) -> int:
    """R, the units computed at a time: a function of the model and of the shape of a unit."""
    layer = trained_linear(model)
    numbers = _CPU_NUMBERS if views.device.type == "cpu" else _DEVICE_NUMBERS
    gradient = sum(p.numel() for p in layer.parameters())
    held = gradient if _written(layer, views) else views.shape[1] * layer.in_features
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
    return [*seen, *(_gradients(layer, seen) if _written(layer, views) else ())]


def _written(layer: nn.Linear, views: Float[Tensor, "G K *view"]) -> bool:
    """Whether each unit's gradient is written down: by rule, what takes less time."""
    count, sizes = views.shape[1], (layer.in_features, layer.out_features)
    if count > 1 and sum_dtype(views.device) != torch.float64:
        return True
    return count**2 * sum(sizes) > _WRITING * sizes[0] * sizes[1] and count > 1


def _gradients(layer: nn.Linear, seen: _Pass) -> list[Float[Tensor, "R ..."]]:
    weight = torch.bmm(seen.residuals.transpose(1, 2), seen.features)[:, :, : layer.in_features]
    return [weight] if layer.bias is None else [weight, seen.residuals.sum(dim=1)]


def _add_products(
    layer: nn.Linear, total: list[Tensor], seen: _Pass, max_grad_norm: float, count: int
) -> Float[Tensor, " G"]:
    """Add the first `count` clipped gradients without writing them; return their norms."""
    dtype = sum_dtype(seen.features.device)
    # Whole cache lines here too: a row's norm then does not depend on its address.
    residuals = F.pad(seen.residuals.to(dtype), (0, -layer.out_features % _LINE))
    features = seen.features.to(dtype)
    norms = longest_norms(residuals, features, len(total) == 2)
    roots = clip_root(norms, max_grad_norm)
    roots[count:] = 0.0
    root = roots[:, None, None]
    left, right = residuals[..., : layer.out_features] * root, features
    if dtype == torch.float64:
        left = left * root
    else:
        right = right * root
    if not bool(roots.all()):
        # Zero times a number that is not finite is not zero.
        left, right = (torch.where(root > 0, rows, 0.0) for rows in (left, right))
    left, right = left.flatten(0, 1), right.flatten(0, 1)
    total[0] += (left.T @ right)[:, : layer.in_features]
    if len(total) == 2:
        total[1] += (left if dtype == torch.float64 else left * root.flatten(0, 1)).sum(dim=0)
    return norms[:count]


def longest_norms(
    residuals: Float[Tensor, "R K L"], features: Float[Tensor, "R K D"], bias: bool
) -> Float[Tensor, " R"]:
    """Norms of the gradients sum_k r_k x_k^T: at most 1e-12 S too long, and never too short.

    S is the sum of the views' own norms |r_k| |x_k|. In whatever order n numbers are added, the
    result is off by at most n u / (1 - n u) times the sum of their absolute values, where u is the
    unit roundoff (Higham 2002, Accuracy and Stability of Numerical Algorithms, section 4.2). Here n
    is D + L + K^2 and a few, and the absolute values add up to at most S^2. A bias sees a feature
    of one.

    Where the views cancel to less than 2^-10 S, the norm returned is that: in the clipped sum each
    view's part is then at most 2^10 C long, and its rounding below 1e-9 C.
    """
    if residuals.shape[1] > 1:
        inner = [torch.bmm(rows, rows.transpose(1, 2)) for rows in (residuals, features)]
        squares = (inner[0] * (inner[1] + bias)).sum(dim=(1, 2))
        apart = [products.diagonal(dim1=1, dim2=2).contiguous() for products in inner]
    else:
        apart = [rows.square().sum(dim=2) for rows in (residuals, features)]
        squares = (apart[0] * (apart[1] + bias)).sum(dim=1)
    longest = (apart[0] * (apart[1] + bias)).sqrt().sum(dim=1).square()
    terms = features.shape[2] + residuals.shape[2] + residuals.shape[1] ** 2 + 8
    lost = 2 * terms * torch.finfo(residuals.dtype).eps * longest
    return torch.maximum(squares + lost, _LEAST_SHARE**2 * longest).sqrt()


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
    per_view = unit_losses(loss, logits.view(shape), labels)
    (residuals,) = torch.autograd.grad(per_view.sum(), logits)
    return _Pass(
        features=features.view(shape),
        logits=logits.detach().view(shape),
        residuals=residuals.view(shape) / views.shape[1],
        losses=per_view.detach().mean(dim=1),
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
