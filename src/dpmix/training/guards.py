"""Guards of a step: gradients that were not released, and parts or values of a model that change.

Guarantees. A trainer's optimizer takes no step on a gradient that came from elsewhere, such as a
`loss.backward()` left in a loop. A step is refused before it reads any image if, since the trainer
was made, a parameter or a layer was frozen, unfrozen, exchanged, moved or given to the optimizer,
or a hook was added, which would see single units without noise. And a step releases nothing if
during it a parameter, its gradient, a buffer or a plain tensor attribute of the model gets another
value, to the bit, or the state dict another entry or extra state. The values are put back, and no
other step is taken. The test is `tests/training/test_guards.py`.
"""

import math
import pickle
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.clipping.model_check import held_tensors
from dpmix.clipping.types import LOSSES, Loss, per_view_loss, trainable
from dpmix.errors import DpmixError
from dpmix.models.finetune import layer_name
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import torch_seeded

_MARK = "_dpmix_released"
_FEW, _LARGE_EPSILON = 100, 8.0  # persons, and up to which epsilon they are few
_HOOKS = ("forward_pre", "forward", "backward_pre", "backward")
# Where a hook is, its kind, and torch's number for it.
Hook = tuple[str, str, int]


def warn_of_few_persons(plan: PrivacyPlan, weights: int) -> None:
    """Say, before training, how much noise a plan for few persons means.

    Args:
        plan: of the run.
        weights: number of trained weights.
    """
    if plan.unit == "image" or plan.n is None or plan.n >= _FEW or not plan.private:
        return
    if plan.steps and plan.target_epsilon <= _LARGE_EPSILON:
        # Of the mean over all steps, next to gradients of at most C.
        # By N alone: the denominator may follow from a private count, which is not shown yet.
        batch = plan.sampling_rate * plan.n
        noise = plan.noise_std / batch * math.sqrt(weights / plan.steps)
        warnings.warn(
            f"there are {plan.n} persons: averaged over all steps, the noise on the "
            f"{weights:,} trained weights is {noise / plan.max_grad_norm:.2g} times as long as the "
            "longest mean gradient can be, so accuracy varies between runs; more persons help "
            "most, then fewer weights",
            stacklevel=3,
        )


def mark_released(gradients: Iterable[Tensor]) -> None:
    """Mark `gradients`, with their present values, as released with noise."""
    for gradient in gradients:
        setattr(gradient, _MARK, gradient._version)


def require_released_gradients(optimizer: Optimizer) -> None:
    """Make `optimizer` refuse gradients that are not marked, or were changed since."""
    optimizer.register_step_pre_hook(_refuse_unreleased)


def _refuse_unreleased(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Check the gradients now, and once more after a closure, which may make others."""
    _check_released(optimizer)

    def checked(given: Any) -> Any:
        def closure() -> Any:
            loss = given()
            _check_released(optimizer)
            return loss

        return closure if callable(given) else given

    # The first argument is the optimizer itself.
    itself, *others = args
    return (itself, *map(checked, others)), {name: checked(one) for name, one in kwargs.items()}


def _check_released(optimizer: Optimizer) -> None:
    gradients = (p.grad for group in optimizer.param_groups for p in group["params"])
    if any(g is not None and getattr(g, _MARK, None) != g._version for g in gradients):
        raise DpmixError(
            "optimizer.step() was called on gradients that no private step released; leave "
            "loss.backward() and optimizer.step() out of the loop: PrivateTrainer.step() does both"
        )


def require_stateless(loss: Loss, model: nn.Module, view_shape: tuple[int, ...]) -> None:
    """Refuse a loss that gives other values for the same arguments after another call.

    It would carry one example's values over to the next, whose gradient then depends on both.

    Raises:
        DpmixError: it does, or a tensor in it changed.
    """
    if loss in LOSSES.values():
        return
    like = next(p for p in model.parameters() if p.is_floating_point())
    with torch_seeded(0, like.device), torch.no_grad():
        logits = model(torch.rand((2, *view_shape)).to(like))
    held = held_tensors(loss) if isinstance(loss, nn.Module) else []
    found = []
    for scores in (logits, -3 * logits, logits):
        with torch_seeded(0, like.device), torch.no_grad():
            found.append(per_view_loss(loss, scores, logits.softmax(dim=1)))
    if not torch.equal(found[0], found[2]) or any(one.changed() for one in held):
        raise DpmixError(
            "the loss gives other values for the same logits and labels after another call, so "
            "one example would change the gradient of the next; use a loss that keeps no state"
        )


class ModelGuard:
    """Remembers the parts of a model and its optimizer, as they were checked."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._parts = _parts(model, optimizer)
        self._hooks = set(_hooks(model))
        self._broken = ""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse parts that changed before the body, and values that change in it."""
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
                "examples without noise: remove it (wandb.unwatch(model))"
            )
        values, before = held_tensors(self._model), _other_state(self._model)
        try:
            yield
        finally:
            after = _other_state(self._model)
            changed = [str(held) for held in values if held.changed()]
            changed += [what for what in after if after[what] != before[what]]
            if changed:
                for held in values:
                    held.restore()
                self._broken = changed[0]
                self._refuse_broken()

    def _refuse_broken(self) -> None:
        if self._broken:
            raise DpmixError(
                f"{self._broken} changed during the step, so it holds private statistics without "
                "noise. Nothing was released, and no other step is taken; drop this model and "
                "what changes it"
            )


def _other_state(model: nn.Module) -> dict[str, Any]:
    """Gradients (identity and version), entries of the state dict, and its extra state."""
    gradients = [p.grad for p in model.parameters()]
    state = model.state_dict()
    extras = [pickle.dumps(state[name]) for name in state if name.endswith("_extra_state")]
    return {
        "the gradient of a parameter": [g if g is None else (id(g), g._version) for g in gradients],
        "the model's state dict": (list(state), extras),
    }


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
        for kind in _HOOKS:
            yield from ((place, f"{kind} hook", key) for key in getattr(module, f"_{kind}_hooks"))
        if "forward" in vars(module):
            yield place, "replaced forward", id(vars(module)["forward"])
        for name, parameter in module.named_parameters(recurse=False):
            for key in parameter._backward_hooks or ():
                yield place, f"hook on the gradient of '{name}'", key
    for kind in _HOOKS:
        everywhere = getattr(torch.nn.modules.module, f"_global_{kind}_hooks", {})
        yield from (("every module", f"{kind} hook", key) for key in everywhere)
