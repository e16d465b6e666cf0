"""What of a model must not change: its parts between steps, its values while a step looks at data.

Guarantees (`tests/training/test_model_guard.py`): a step is refused before it reads any image where
since the trainer was made a parameter or a layer was frozen, unfrozen, exchanged, moved or given to
the optimizer, or a hook was added, which would see single units without noise. And a step releases
nothing after which a parameter, its gradient, a buffer or a plain tensor attribute of the model
holds another value, to the bit and however it was written, or the state dict another entry or extra
state. The values are put back, and no other step is taken.
"""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dpmix.clipping.model_check import HeldTensor, held_tensors
from dpmix.clipping.types import trainable
from dpmix.errors import DpmixError
from dpmix.models.finetune import layer_name

_HOOKS = {
    "_forward_pre_hooks": "forward pre-hook",
    "_forward_hooks": "forward hook",
    "_backward_pre_hooks": "backward pre-hook",
    "_backward_hooks": "backward hook",
}


Hook = tuple[str, str, int]


"""The place of a hook, its kind, and torch's number of it."""


class ModelGuard:
    """Remembers the parts of a model and its optimizer, as they were checked."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._parts = _parts(model, optimizer)
        self._hooks = set(_hooks(model))
        self._broken = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse parts that changed before, and values that change inside.

        Raises:
            DpmixError: a parameter, a layer or a hook is not what it was when the trainer was made;
                or a value changed inside, in this step or in an earlier one.
        """
        self._refuse_changed_parts()
        values, gradients = held_tensors(self._model), _gradients(self._model)
        names, extras = list(self._model.state_dict()), _extras(self._model)
        try:
            yield
        finally:
            what = _first_changed(values)
            if _gradients(self._model) != gradients:
                what = what or "the gradient of a parameter"
            if list(self._model.state_dict()) != names or _extras(self._model) != extras:
                what = what or "the model's state dict"
            if what:
                for held in values:
                    held.restore()
                self._broken = what
                self._refuse_broken()

    def _refuse_broken(self) -> None:
        if self._broken:
            raise DpmixError(
                f"{self._broken} changed during the step, so it holds private statistics without "
                "noise. Nothing was released, and no other step is taken; drop this model and "
                "what changes it"
            )

    def _refuse_changed_parts(self) -> None:
        self._refuse_broken()
        if _parts(self._model, self._optimizer) != self._parts:
            raise DpmixError(
                "parameters or layers were frozen, unfrozen, exchanged, moved or added to the "
                "optimizer after the trainer was made for them; change them first, and then make "
                "optimizer and trainer"
            )
        for place, kind, _ in sorted(set(_hooks(self._model)) - self._hooks):
            raise DpmixError(
                f"{place} was given a {kind} after the trainer was made; it would see single "
                "examples without noise: remove it (wandb.unwatch(model)), and log the weights "
                "after a step instead"
            )


def _first_changed(values: list[HeldTensor]) -> str:
    return next((str(held) for held in values if held.changed()), "")


def _gradients(model: nn.Module) -> list[tuple[int, int] | None]:
    """Identity and version of each parameter's gradient."""
    held = (parameter.grad for parameter in model.parameters())
    return [None if gradient is None else (id(gradient), gradient._version) for gradient in held]


def _extras(model: nn.Module) -> dict[str, bytes]:
    """What modules put into the state dict that is no tensor of theirs."""
    state = model.state_dict()
    return {name: pickle.dumps(state[name]) for name in state if name.endswith("_extra_state")}


def _parts(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    trained = trainable(model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [
        held,
        *((name, id(p), p.dtype, p.device, p.shape) for name, p in trained.items()),
        *((path, id(module), type(module)) for path, module in model.named_modules()),
    ]


def _hooks(model: nn.Module) -> Iterator[Hook]:
    for path, module in model.named_modules():
        place = layer_name(path, module)
        for name, kind in _HOOKS.items():
            yield from ((place, kind, key) for key in getattr(module, name))
        if "forward" in vars(module):
            yield place, "replaced forward", id(vars(module)["forward"])
        for name, parameter in module.named_parameters(recurse=False):
            for key in parameter._backward_hooks or ():
                yield place, f"hook on the gradient of '{name}'", key
    for name, kind in _HOOKS.items():
        everywhere: dict[int, Any] = getattr(torch.nn.modules.module, f"_global{name}", {})
        yield from (("every module", kind, key) for key in everywhere)
