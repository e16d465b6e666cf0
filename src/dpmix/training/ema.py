"""Exponential moving average of the weights, with the warm-up of De et al. 2022."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dpmix.clipping.types import trainable


class Ema:
    """Averages a model's trainable parameters after each step: post-processing, costs no privacy.

    The decay at step t (from 0) is min(decay, (1 + t) / (10 + t)): early weights are forgotten
    fast (De et al. 2022, arXiv 2204.13650, section 3.2).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.step = 0
        self._model = model
        self._average = {name: p.detach().clone() for name, p in trainable(model).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the current weights; call after each optimizer step."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for name, parameter in trainable(self._model).items():
            self._average[name].lerp_(parameter, 1 - decay)
        self.step += 1

    def weights(self) -> dict[str, Tensor]:
        """The model's state dict with the averaged parameters in place."""
        return {**self._model.state_dict(), **self._average}

    def state(self) -> dict[str, Any]:
        """What `restore` needs to continue averaging."""
        return {"step": self.step, "average": self._average}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned for the same model."""
        self.step = state["step"]
        for name, average in self._average.items():
            average.copy_(state["average"][name])

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the averaged weights; its own weights come back afterwards."""
        own = {name: p.detach().clone() for name, p in trainable(self._model).items()}
        self._write(self._average)
        try:
            yield self._model
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, values: dict[str, Tensor]) -> None:
        for name, parameter in trainable(self._model).items():
            parameter.copy_(values[name])
