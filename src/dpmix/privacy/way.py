"""How a clipped sum is computed, never what it is: engine, chunk, layout, compiled or not."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from dpmix.privacy.clipping import Engine


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
