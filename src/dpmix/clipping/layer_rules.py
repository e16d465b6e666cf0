"""What engine `bookkeeping` knows of a layer: the gradients of units from its rows.

A layer sees the V = R K views of R units, K neighbouring rows for each unit: inputs x and output
gradients g. The gradient of a unit is the product g^T x over all its views and places for a linear
layer or a convolution, and a sum of rows for a bias or a scale.

Gradients are written for each unit, but for the weights of linear layers: of these only the norm is
computed, from inner products of the rows (`longest_norms`), or where that takes longer by writing
one unit's gradient at a time into the processor's cache and forgetting it.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Float64
from timm.layers.layer_scale import LayerScale
from timm.layers.norm import LayerNorm
from torch import Tensor, nn

from dpmix.clipping.linear import longest_norms
from dpmix.models.wide_resnet import EPS, WSConv2d

# float32 numbers that are squared and added before float64 takes over: off by 1e-6 at most.
_BLOCK = 4096
# Inner products are float64, and widening the rows takes time too; writing a gradient takes as long
# as this many products for each number.
_WIDE, _WRITING = 4, 4
_LEAST_OF_SQUARES, _LEAST_OF_SUM = 2.0**-12, 2.0**-14

Written = dict[str, Float[Tensor, "R ..."]]
"""Each unit's gradient, by the parameter's name in the layer."""


class LayerRule:
    """The rule of one kind of layer."""

    def refusal(self, layer: Any) -> str:
        """Why the rule does not hold for a layer of this kind; empty if it does."""
        return ""

    def written(self, layer: Any, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """The gradients of each unit, but for a linear layer's weight."""
        raise NotImplementedError


class LinearRule(LayerRule):
    """`nn.Linear` on [V, ..., I]."""

    def written(self, layer: nn.Linear, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """The bias."""
        return {"bias": grads.reshape(units, -1, layer.out_features).sum(dim=1)}

    def squares(
        self, layer: nn.Linear, inputs: Tensor, grads: Tensor, units: int
    ) -> Float64[Tensor, " R"]:
        """Squared norms of the weight's gradient, or more where its rows cancel.

        The gradient is a sum over rows. Where they cancel, the product of float32 numbers over all
        units is rounding to a good part, scaled up by the clipping factor. So a norm counts as at
        least 1/64 of the root of the sum of its rows' squared norms, and at least 1/128 of the sum
        of their norms, whatever the number of rows.
        """
        g, x = (one.reshape(units, -1, one.shape[-1]) for one in (grads, inputs))
        of_rows = [torch.linalg.vector_norm(rows, dim=2).double().square() for rows in (g, x)]
        products = of_rows[0] * of_rows[1]
        least = torch.maximum(
            _LEAST_OF_SQUARES * products.sum(dim=1), _LEAST_OF_SUM * products.sqrt().sum(dim=1) ** 2
        )
        sizes, count = (layer.out_features, layer.in_features), x.shape[1]
        if _WIDE * count**2 * sum(sizes) <= (count + _WRITING) * sizes[0] * sizes[1]:
            squares = longest_norms(g.double(), x.double(), bias=False).square()
            return torch.maximum(squares, least)
        # One by one: each fits into the cache, and no unit depends on its place.
        parts = [squares_of_written((one.T @ other)[None]) for one, other in zip(g, x, strict=True)]
        return torch.maximum(torch.cat(parts), least)

    def summed(self, layer: nn.Linear, inputs: Tensor, grads: Tensor) -> Float[Tensor, "O I"]:
        """The weight's gradient over all rows."""
        return grads.reshape(-1, layer.out_features).T @ inputs.reshape(-1, layer.in_features)


class ConvRule(LayerRule):
    """`nn.Conv2d` on [V, I, H, W], with any stride, padding, dilation and groups."""

    def refusal(self, layer: nn.Conv2d) -> str:
        """Padding that is not zeros has no rule."""
        zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
        return "" if zeros else "its padding is not a number of zeros"

    def written(self, layer: nn.Conv2d, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """Weight and bias; a unit's weight is the convolution's own backward pass on the unit."""
        weight = grads.new_empty(units, *layer.weight.shape)
        for row, x, g in zip(weight, inputs.chunk(units), grads.chunk(units), strict=True):
            row.copy_(
                torch.ops.aten.convolution_backward(
                    g, x, layer.weight, None, layer.stride, layer.padding, layer.dilation,
                    False, [0, 0], layer.groups, [False, True, False],
                )[1]
            )  # fmt: skip
        return {
            "weight": weight,
            "bias": grads.reshape(units, -1, *grads.shape[1:]).sum(dim=(1, 3, 4)),
        }


class StandardizedConvRule(ConvRule):
    """`WSConv2d`: a convolution by gain * u, where u is the weight less its mean, over its norm."""

    def written(self, layer: nn.Conv2d, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """Weight, gain and bias, from the gradient by the standardised weight."""
        assert isinstance(layer, WSConv2d)
        made = super().written(layer, inputs, grads, units)
        rows = made["weight"].flatten(2)
        centred = layer.weight.flatten(1)
        centred = centred - centred.mean(dim=1, keepdim=True)
        norm = torch.linalg.vector_norm(centred, dim=1)
        floor = norm.clamp(min=EPS**0.5)
        u = centred / floor[:, None]
        made["gain"] = torch.einsum("rof,of->ro", rows, u)
        # A norm at its floor is a constant.
        along = made["gain"] * (norm >= floor)
        rows.sub_(rows.mean(dim=2, keepdim=True)).addcmul_(along[:, :, None], u, value=-1)
        rows.mul_((layer.gain / floor)[:, None])
        return made


class LayerNormRule(LayerRule):
    """`nn.LayerNorm` on [V, ..., normalized_shape]."""

    def written(self, layer: nn.LayerNorm, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """Scale and shift."""
        normal = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)
        shape = (units, -1, *layer.normalized_shape)
        return {
            "weight": (grads * normal).reshape(shape).sum(dim=1),
            "bias": grads.reshape(shape).sum(dim=1),
        }


class GroupNormRule(LayerRule):
    """`nn.GroupNorm` on [V, C, ...]."""

    def written(self, layer: nn.GroupNorm, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """Scale and shift."""
        normal = F.group_norm(inputs, layer.num_groups, eps=layer.eps)
        shape = (units, -1, layer.num_channels, inputs[0, 0].numel())
        return {
            "weight": (grads * normal).reshape(shape).sum(dim=(1, 3)),
            "bias": grads.reshape(shape).sum(dim=(1, 3)),
        }


class ScaleRule(LayerRule):
    """timm's `LayerScale` on [V, ..., D]."""

    def written(self, layer: LayerScale, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """The scale."""
        return {"gamma": (grads * inputs).reshape(units, -1, inputs.shape[-1]).sum(dim=1)}


class EmbeddingRule(LayerRule):
    """`nn.Embedding` on indices [V, ...]."""

    def refusal(self, layer: nn.Embedding) -> str:
        """Rows that are renormed, or weighed by their frequency, have no rule."""
        plain = layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
        return "" if plain else "it renorms, weighs or is sparse"

    def written(self, layer: nn.Embedding, inputs: Tensor, grads: Tensor, units: int) -> Written:
        """The table."""
        made = grads.new_zeros(units, *layer.weight.shape)
        index = inputs.reshape(units, -1)
        rows = grads.reshape(units, index.shape[1], -1)
        if layer.padding_idx is not None:
            rows = rows * (index != layer.padding_idx)[:, :, None]
        unit = torch.arange(units, device=index.device)[:, None].expand_as(index)
        return {"weight": made.index_put_((unit, index), rows, accumulate=True)}


PRODUCT = LinearRule()

RULES: dict[type[nn.Module], LayerRule] = {
    nn.Linear: PRODUCT,
    nn.Conv2d: ConvRule(),
    WSConv2d: StandardizedConvRule(),
    nn.LayerNorm: LayerNormRule(),
    LayerNorm: LayerNormRule(),
    nn.GroupNorm: GroupNormRule(),
    LayerScale: ScaleRule(),
    nn.Embedding: EmbeddingRule(),
}
"""By the exact type: a subclass may compute something else."""


def squares_of_written(rows: Float[Tensor, "R ..."]) -> Float64[Tensor, " R"]:
    """Squared norms, in float64 but for sums of a few thousand numbers."""
    flat = rows.flatten(1)
    whole = flat.shape[1] // _BLOCK * _BLOCK
    parts = [flat[:, :whole].unflatten(1, (-1, _BLOCK)), flat[:, None, whole:]]
    norms = [torch.linalg.vector_norm(part, dim=2) for part in parts if part.numel()]
    return torch.cat(norms, dim=1).double().square().sum(dim=1)
