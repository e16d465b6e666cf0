"""The sum of clipped gradients, each multiplied by its unit's weight.

Sensitivity: a weight is in (0, 1] and is applied after clipping, so a unit adds w clip(g), a vector
of norm at most C, as without weights. The weight depends on that unit alone (`privacy/balance.py`),
and so adding or removing a unit moves the sum by at most C
(`tests/properties/test_balance_sensitivity.py`).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from dpmix.clipping.types import ClippedSum
from dpmix.data.source import ImageSource, unit_count
from dpmix.errors import DpmixError
from dpmix.views.builder import ViewSet
from dpmix.views.spec import ViewSpec


def weighted_sum(
    clipped: Callable[[ViewSet], ClippedSum], made: ViewSet, weights: Float64[Tensor, " G"]
) -> ClippedSum:
    """Clip and add up the groups of `made`, those of one weight at a time; G is 1 or more.

    Args:
        clipped: the clipped sum of some groups, whatever others there are.
        made: G groups of views.
        weights: of the groups, in (0, 1].

    Returns:
        Weighted gradients; norms and losses are those without weights, in the order of the groups.
    """
    parts, places = [], []
    for weight in weights.unique().tolist():
        rows = (weights == weight).nonzero().flatten()
        there = rows.to(made.views.device)
        part = clipped(ViewSet(made.views[there], made.labels[there]))
        torch._foreach_mul_(part.gradients, weight)
        parts.append(part)
        places.append(rows)
    total = parts[0].gradients
    for part in parts[1:]:
        torch._foreach_add_(total, part.gradients)
    order = torch.cat(places).argsort()
    norms, losses = (
        torch.cat(some)[order.to(some[0].device)]
        for some in ([part.norms for part in parts], [part.losses for part in parts])
    )
    return ClippedSum(total, norms, losses, parts[0].engine)


def check_weights(weights: Float64[Tensor, " U"], data: ImageSource, spec: ViewSpec) -> None:
    """Refuse weights that are not one in (0, 1] for each unit, or a gradient of two units."""
    if spec.examples_per_group > 1:
        raise DpmixError(
            f"method {spec.method} joins {spec.examples_per_group} examples in one gradient, which "
            "would have two weights; use --method mix-self, or --balance none"
        )
    units = unit_count(data, spec.unit)
    if len(weights) != units or not bool(((weights > 0) & (weights <= 1)).all()):
        raise DpmixError(
            f"there are {len(weights)} weights from {float(weights.min()):g} to "
            f"{float(weights.max()):g} for {units} {spec.unit}s; expected one above 0 and at most "
            "1 for each"
        )
