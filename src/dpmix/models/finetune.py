"""What of a model is trained privately: which weights, and which layers stay frozen.

The choice reads the network's layout alone. The noise of a step grows with the number of trained
weights, so fewer can be better (BiTFiT: Bu et al. 2022, arXiv 2210.00036; LoRA under DP: Yu et al.
2021, arXiv 2110.06500).

`check_private` lets layers pass because they are frozen, and they must stay so. The check and the
training loop therefore both use `train_mode`, never a bare `model.train()`.
"""

from typing import Any, Literal

import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from dpmix.errors import DpmixError, to_install
from dpmix.models.backbones.backbone import ChannelAffine
from dpmix.models.head import BackboneClassifier

Trainable = Literal["head", "norm-and-bias", "lora", "last-blocks", "all", "head-then-all"]

_NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, ChannelAffine)

# A part that holds more than this share of the weights is the trunk, not one block of several.
_TRUNK_SHARE = 0.9


def layer_name(path: str, module: nn.Module) -> str:
    """Return `layer 'features.1' (BatchNorm2d)`, or `model (Net)` for the root, for messages."""
    kind = type(module).__name__
    return f"layer '{path}' ({kind})" if path else f"model ({kind})"


def frozen_modules(model: nn.Module) -> set[nn.Module]:
    """Return the modules that are, or lie inside, a frozen one, and are in eval mode themselves.

    A module is frozen if it is in eval mode and has parameters, none of which requires a gradient:
    all layers of a model that was just evaluated are in eval mode, and training must reach Dropout.
    """
    roots = [
        module
        for module in model.modules()
        if not module.training
        and any(True for _ in module.parameters())
        and not any(p.requires_grad for p in module.parameters())
    ]
    return {inner for root in roots for inner in root.modules() if not inner.training}


def train_mode(model: nn.Module, frozen: set[nn.Module] | None = None) -> None:
    """Put a model into train mode, except `frozen`; None means the modules that are frozen now."""
    frozen = frozen_modules(model) if frozen is None else frozen
    model.train()
    for module in frozen:
        module.training = False


def choose_trainable(
    model: BackboneClassifier, what: Trainable, *, last_blocks: int = 1, lora_rank: int = 8
) -> None:
    """Freeze the backbone except `what`, in place; the head always trains.

    Args:
        model: backbone and head.
        what: with the head: nothing; norm layers and biases; low-rank updates of attention and
            MLP layers; the last blocks and what follows them; or all, be it after the head alone.
        last_blocks: number of blocks.
        lora_rank: rank of each low-rank update.

    Raises:
        DpmixError: this backbone has no weights for the choice.
    """
    backbone = model.backbone
    backbone.requires_grad_(False).eval()
    if what == "head":
        return
    if not list(backbone.parameters()):
        raise DpmixError(
            f"trainable {what}: this backbone has no weights to train; use --trainable head"
        )
    if what in ("all", "head-then-all"):
        backbone.requires_grad_(True)
    elif what == "norm-and-bias":
        for part in backbone.modules():
            if isinstance(part, _NORMS):
                part.requires_grad_(True)
        for name, parameter in backbone.named_parameters():
            if name.rpartition(".")[2] == "bias":
                parameter.requires_grad_(True)
    elif what == "lora":
        _add_lora(backbone, lora_rank)
    else:
        _unfreeze_last(backbone, last_blocks)


def _add_lora(backbone: nn.Module, rank: int) -> None:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise DpmixError(
            f"trainable lora needs the package peft: {to_install('backbones')}"
        ) from None
    open_attention(backbone)
    # Linear layers, and the 1x1 convolutions that replace them in some MLPs.
    names = [
        name
        for name, part in backbone.named_modules()
        if isinstance(part, nn.Linear)
        or (isinstance(part, nn.Conv2d) and part.kernel_size == (1, 1) and part.groups == 1)
    ]
    if not names:
        raise DpmixError(
            "trainable lora: this backbone has no attention or MLP layers to adapt; use "
            "--trainable norm-and-bias"
        )
    settings: Any = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=names)
    inject_adapter_in_model(settings, backbone)


def _unfreeze_last(backbone: nn.Module, count: int) -> None:
    path, trunk = _trunk(backbone)
    blocks = [name for name, part in trunk.named_children() if _size(part)]
    if not 1 <= count <= len(blocks):
        raise DpmixError(
            f"last_blocks is {count}; this backbone has {len(blocks)} blocks "
            f"({', '.join(blocks)}): expected 1..{len(blocks)}"
        )
    first = f"{path}{blocks[-count]}."
    reached = False
    for name, parameter in backbone.named_parameters():
        reached = reached or name.startswith(first)
        parameter.requires_grad_(reached)


def _trunk(module: nn.Module) -> tuple[str, nn.Module]:
    """The innermost part that holds nearly all weights, and its path with a dot at the end."""
    for name, part in module.named_children():
        if list(part.children()) and _size(part) > _TRUNK_SHARE * _size(module):
            path, trunk = _trunk(part)
            return f"{name}.{path}", trunk
    return "", module


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class PlainAttention(nn.Module):
    """Self-attention [B, T, E] by four linear layers, with the weights and output of `source`.

    LoRA adapters can be put on it. torch's own layer reads its weights without calling the layers
    that hold them, and adapters for it swap weights in a forward, which `check_private` refuses.
    Options that no known image tower uses are refused.
    """

    def __init__(self, source: nn.MultiheadAttention, path: str) -> None:
        super().__init__()
        packed, biases = source.in_proj_weight, source.in_proj_bias
        rare = source.bias_k is not None or source.add_zero_attn or not source.batch_first
        if packed is None or biases is None or rare:
            raise DpmixError(
                f"{layer_name(path, source)} attends in a way that adapters can't be put on; use "
                "--trainable norm-and-bias"
            )
        self.heads, self.drop = source.num_heads, source.dropout
        parts = zip(packed.chunk(3), biases.chunk(3), strict=True)
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
        """Attend like torch's layer, but never return the attention weights."""
        projections = (self.query(query), self.key(key), self.value(value))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in projections)
        drop = self.drop if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, dropout_p=drop)
        projected: Tensor = self.out(mixed.transpose(1, 2).flatten(-2))
        return projected, None


def open_attention(module: nn.Module, path: str = "") -> None:
    """Replace, in place, every `nn.MultiheadAttention` below `module` by a `PlainAttention`."""
    for name, child in module.named_children():
        inner = f"{path}.{name}".lstrip(".")
        if isinstance(child, nn.MultiheadAttention):
            setattr(module, name, PlainAttention(child, inner).train(child.training))
        else:
            open_attention(child, inner)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = (nn.Parameter(part.detach().clone()) for part in (weight, bias))
    return layer.requires_grad_(False)
