"""How a clipped sum is computed, never what it is: engine, chunk, layout, compiled or not."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dpmix.clipping.accumulator import sum_dtype
from dpmix.errors import DpmixError

Engine = Literal["auto", "examplewise", "vectorized", "linear"]


ENGINES: tuple[str, ...] = get_args(Engine)


# Maps logits [K, L] and soft labels [K, L] to one loss per view, [K].
Loss = Callable[[Tensor, Tensor], Tensor]


class CannotRunError(DpmixError):
    """The model does what the engine asked for can't allow."""


@dataclass(frozen=True)
class ClippedSum:
    """What one call computed for G groups; everything here is private until noise is added.

    Attributes:
        gradients: sum of the clipped gradients, one tensor per trainable parameter, in
            `model.named_parameters()` order, float64 (float32 on mps).
        norms: each group's gradient norm before clipping (not finite where it was dropped).
        losses: each group's mean loss over its views.
        engine: what computed it.
    """

    gradients: list[Tensor]
    norms: Float[Tensor, " G"]
    losses: Float[Tensor, " G"]
    engine: str

    @property
    def dropped(self) -> Bool[Tensor, " G"]:
        """Groups whose gradient was not finite and so counted as zero."""
        return ~torch.isfinite(self.norms)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters that receive gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradient_dtype(parameter: Tensor) -> torch.dtype:
    """One example's gradient: float32, or float64 where the parameter is; half loses terms."""
    return torch.promote_types(parameter.dtype, torch.float32)


def zero_sum(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Zeros in which clipped gradients are added up."""
    return [torch.zeros_like(p, dtype=sum_dtype(p.device)) for p in parameters]


@dataclass(frozen=True)
class Way:
    """How a clipped sum is computed.

    Attributes:
        engine: as in `clipped_gradient_sum`.
        view_chunk: as there.
        channels_last: whether the model's convolutions lie in that order in memory.
        compiled: whether `torch.compile` fuses the passes (`examplewise` only).
        reason: why, in a few words.
    """

    engine: Engine
    view_chunk: int | None = None
    channels_last: bool = False
    compiled: bool = False
    reason: str = ""

    def prepare(self, model: nn.Module) -> nn.Module:
        """Lay the model out in memory where the way asks for it, and return what is to be called.

        The model's values stay, and what is called has its very parameters.
        """
        if self.channels_last:
            for parameter in model.parameters():
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return cast("nn.Module", torch.compile(model, dynamic=False)) if self.compiled else model

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        chunk = f", {self.view_chunk} views at a time" if self.view_chunk else ""
        return f"{self.engine}{layout}{chunk}{', compiled' if self.compiled else ''}"
