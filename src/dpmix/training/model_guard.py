"""What of a model must not change: its parts between steps, its values while a step looks at data.

Guarantees (`tests/training/test_model_guard.py`): a step is refused before it reads any image where
since the trainer was made a parameter was frozen, unfrozen, exchanged, moved or given to the
optimizer, or a hook was added, which would see single units without noise. And a step releases
nothing after which a parameter, a buffer or a plain tensor attribute of the model holds another
value, however it was written, or the state dict another entry.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.errors import DpmixError
from dpmix.models.layer_name import layer_name
from dpmix.models.preserved import Held, held_tensors
from dpmix.privacy.clipping import trainable

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
        self._values: list[Held] = []
        self._names: list[str] = []

    def before_step(self) -> None:
        """Refuse parts that changed, and remember all values.

        Raises:
            DpmixError: a parameter or a hook is not what it was when the trainer was made.
        """
        if _parts(self._model, self._optimizer) != self._parts:
            raise DpmixError(
                "parameters were frozen, unfrozen, exchanged, moved or added to the optimizer "
                "after the trainer was made for them; change them first, and then make optimizer "
                "and trainer"
            )
        for place, kind, _ in sorted(set(_hooks(self._model)) - self._hooks):
            raise DpmixError(
                f"{place} was given a {kind} after the trainer was made; it would see single "
                "examples without noise: remove it (wandb.unwatch(model)), and log the weights "
                "after a step instead"
            )
        self._values, self._names = held_tensors(self._model), list(self._model.state_dict())

    def after_gradients(self) -> None:
        """Refuse values that changed since `before_step`.

        Raises:
            DpmixError: naming the first of them.
        """
        changed = (
            f"{held.kind} '{held.name}' of {layer_name(held.path, held.module)}"
            for held in self._values
            if held.changed()
        )
        what = next(changed, None)
        if what is None and list(self._model.state_dict()) != self._names:
            what = "the set of names in the model's state dict"
        self._values = []
        if what is not None:
            raise DpmixError(
                f"{what} changed during the step, so it holds private statistics without noise. "
                "Nothing was released; drop this model and what changes it"
            )


def _parts(model: nn.Module, optimizer: Optimizer) -> list[Any]:
    trained = trainable(model)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return [held, *((name, id(p), p.dtype, p.device, p.shape) for name, p in trained.items())]


def _hooks(model: nn.Module) -> Iterator[Hook]:
    for path, module in model.named_modules():
        place = layer_name(path, module)
        for name, kind in _HOOKS.items():
            yield from ((place, kind, key) for key in getattr(module, name))
        if "forward" in vars(module):
            yield place, "forward of its own", id(vars(module)["forward"])
        for name, parameter in module.named_parameters(recurse=False):
            for key in parameter._backward_hooks or ():
                yield place, f"hook on the gradient of '{name}'", key
    for name, kind in _HOOKS.items():
        everywhere: dict[int, Any] = getattr(torch.nn.modules.module, f"_global{name}", {})
        yield from (("every module", kind, key) for key in everywhere)


def same_dtype(views: Tensor, model: nn.Module) -> Tensor:
    """The views as the model's parameters are: half precision and float64 alike."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    return views.to(like.dtype)
