"""torch's MultiheadAttention as plain linear layers, which adapters can be put on.

Guarantees the same output as the layer it is made of. torch's own reads its weights without calling
the layers that hold them, and adapters for it swap weights during a forward, which the check for
private training rightly refuses (`dpmix.models.check`).
"""

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dpmix.errors import DpmixError
from dpmix.models.layer_name import layer_name


class PlainAttention(nn.Module):
    """Self-attention [B, T, E] by four linear layers; weights are those of `source`.

    Raises:
        DpmixError: a layer with options that no image tower known to us uses.
    """

    def __init__(self, source: nn.MultiheadAttention, path: str) -> None:
        super().__init__()
        if source.in_proj_weight is None or source.bias_k is not None or source.add_zero_attn:
            raise DpmixError(
                f"{layer_name(path, source)} attends in a way that adapters can't be put on; use "
                "--trainable norm-and-bias"
            )
        self.heads, self.batch_first = source.num_heads, source.batch_first
        self.drop = source.dropout
        biases = (None,) * 3 if source.in_proj_bias is None else source.in_proj_bias.chunk(3)
        parts = zip(source.in_proj_weight.chunk(3), biases, strict=True)
        self.query, self.key, self.value = (_linear(weight, bias) for weight, bias in parts)
        self.out = _linear(source.out_proj.weight, source.out_proj.bias)

    def forward(
        self,
        query: Float[Tensor, "A T E"],
        key: Float[Tensor, "A S E"],
        value: Float[Tensor, "A S E"],
        need_weights: bool = False,
        attn_mask: Shaped[Tensor, "..."] | None = None,
    ) -> tuple[Float[Tensor, "A T E"], None]:
        """As torch's layer, without the attention weights."""
        q, k, v = (
            self._split(part) for part in (self.query(query), self.key(key), self.value(value))
        )
        drop = self.drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=drop)
        joined = mixed.transpose(1, 2).flatten(-2)
        projected: Tensor = self.out(joined if self.batch_first else joined.transpose(0, 1))
        return projected, None

    def _split(self, x: Tensor) -> Float[Tensor, "B heads T E"]:
        """One head a row, batch first."""
        if not self.batch_first:
            x = x.transpose(0, 1)
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


def open_attention(module: nn.Module, path: str = "") -> None:
    """Replace, in place, every `nn.MultiheadAttention` below `module`."""
    for name, child in module.named_children():
        inner = f"{path}.{name}".lstrip(".")
        if isinstance(child, nn.MultiheadAttention):
            setattr(module, name, PlainAttention(child, inner).train(child.training))
        else:
            open_attention(child, inner)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return layer.to(weight.device, weight.dtype).requires_grad_(False)
