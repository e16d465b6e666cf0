"""Remember the state of a model, tell what has changed, and put it back.

Guarantees that after ``with preserved(model)`` every parameter, buffer and plain tensor attribute
that the model had, its train/eval modes, and the state of torch's, numpy's and Python's random
generators are what they were, whatever the body did.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Held:
    """One tensor of a model: the module that holds it, in which dictionary, and its value."""

    path: str
    module: nn.Module
    kind: str
    store: dict[str, Any]
    name: str
    tensor: Tensor | None
    value: Tensor | None

    def changed(self) -> bool:
        """Say whether the module now holds another value under this name."""
        now = self.store.get(self.name)
        if not isinstance(now, Tensor) or self.value is None:
            return now is not self.value
        return not _same(now, self.value)

    def restore(self) -> None:
        """Put back both the tensor object and its value."""
        # Untouched values stay untouched: a write would break a graph that the caller still needs.
        tensor, value = self.tensor, self.value
        if tensor is not None and value is not None and not _same(tensor, value):
            with torch.no_grad():
                tensor.copy_(value)
        self.store[self.name] = self.tensor


def held_tensors(model: nn.Module) -> list[Held]:
    """Return a copy of every parameter, buffer and plain tensor attribute of a model."""
    return [held for path, module in model.named_modules() for held in _held_by(path, module)]


def _held_by(path: str, module: nn.Module) -> Iterator[Held]:
    stores: dict[str, dict[str, Any]] = {
        "parameter": module._parameters,
        "buffer": module._buffers,
        "attribute": vars(module),
    }
    for kind, store in stores.items():
        for name, tensor in store.items():
            if isinstance(tensor, Tensor):
                yield Held(path, module, kind, store, name, tensor, tensor.detach().clone())
            elif tensor is None and kind != "attribute":
                yield Held(path, module, kind, store, name, None, None)


def _same(a: Tensor, b: Tensor) -> bool:
    """Compare kinds, shapes and bits: a NaN can carry a number, and a zero a sign."""
    a = a.detach()
    if (a.shape, a.dtype, a.device) != (b.shape, b.dtype, b.device):
        return False
    return torch.equal(*(one.reshape(-1).view(torch.uint8) for one in (a, b)))


@contextmanager
def preserved(model: nn.Module) -> Iterator[None]:
    """Undo, on leaving, whatever the body did to the model's state and to the generators."""
    held = held_tensors(model)
    modes = [(module, module.training) for module in model.modules()]
    rng = RandomState(model)
    try:
        yield
    finally:
        for tensor in held:
            tensor.restore()
        for module, training in modes:
            module.training = training
        rng.replay()


class RandomState:
    """The state of the random generators that a model's forward may draw from, to be replayed."""

    def __init__(self, model: nn.Module) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._cpu = torch.get_rng_state()
        devices = {t.device for t in tensors if t.device.type == "cuda"}
        self._cuda = {device: torch.cuda.get_rng_state(device) for device in devices}

    def replay(self) -> None:
        """Set every generator back to the state at construction."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._cpu)
        for device, state in self._cuda.items():
            torch.cuda.set_rng_state(state, device)
