"""Whether noise is added to the clipped sum, and the weights follow from what was released."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from dpmix.audit.canary_trainer import CanaryTrainer
from dpmix.audit.ear import flat
from dpmix.audit.invariants import Invariant, exactly

# Sums in another order, next to C.
_ROUNDING = 1e-6


class ReleaseChecks:
    """Hears what goes into the noise, and what becomes of a release.

    A twin of the optimizer, with weights that are its own, gets the optimizer's gradients and
    nothing else. It steps just before the real one takes its next step: if that one reads anything
    else of a step, it has changed by then.
    """

    def __init__(self, trainer: CanaryTrainer) -> None:
        self._trainer = trainer
        self._twin = _twin(trainer.optimizer)
        self._pending: dict[Tensor, Tensor] = {}
        self._hook = trainer.optimizer.register_step_pre_hook(lambda *_: self._follow())
        trained = {id(parameter) for parameter in trainer.parameters}
        held = (*trainer.model.parameters(), *trainer.model.buffers())
        self._others = [tensor for tensor in held if id(tensor) not in trained]
        self._before = [tensor.detach().clone() for tensor in self._others]
        self._steps = 0
        self._added = self._replaced = self._uncounted = self._moved = self._stored = False

    def hear(self) -> None:
        """Take one more step."""
        ear, parameters = self._trainer.ear, self._trainer.parameters
        self._steps += 1
        room = _ROUNDING * self._trainer.plan.max_grad_norm
        clipped = flat(ear.clipped)
        self._added |= not torch.allclose(ear.given, clipped, rtol=_ROUNDING, atol=room)
        self._uncounted |= ear.optimizer_steps != 1 or ear.releases != self._steps
        released = [one.to(p.dtype) for one, p in zip(ear.released, parameters, strict=True)]
        self._replaced |= not _all_equal(released, ear.gradients)
        self._pending = dict(zip(parameters, ear.gradients, strict=False))

    def found(self) -> tuple[Invariant, ...]:
        """What was heard, once all steps are done."""
        self._hook.remove()
        self._follow()
        changed = not _all_equal(self._others, self._before)
        return (
            exactly(
                "sum before the noise",
                "noise was added to the sum of clipped gradients, in every step",
                {"noise was added to something else": self._added},
            ),
            exactly(
                "gradients of the optimizer",
                "what was released and nothing else, once in every step",
                {
                    "the optimizer stepped on something else than the release": self._replaced,
                    "not one release and one step of the optimizer in each step": self._uncounted,
                },
            ),
            exactly(
                "trained weights",
                "they and the optimizer's state follow from the optimizer's gradients alone",
                {
                    "the weights do not follow from the optimizer's gradients": self._moved,
                    "the optimizer's state does not follow from its gradients": self._stored,
                    "weights or buffers that are not trained changed": changed,
                },
            ),
        )

    def _follow(self) -> None:
        """The twin takes the step that the real optimizer took last."""
        if not self._pending:
            return
        optimizer = self._trainer.optimizer
        pairs = list(zip(_held(optimizer), _held(self._twin), strict=True))
        for own, twins in pairs:
            twins.grad = self._pending[own]
        self._pending = {}
        self._twin.step()
        for own, twins in pairs:
            self._moved |= not _all_equal([own], [twins])
            self._stored |= not _all_equal(_state(optimizer, own), _state(self._twin, twins))


def _twin(optimizer: Optimizer) -> Optimizer:
    """A copy with parameters that are its own, and without hooks."""
    twin = copy.deepcopy(optimizer)
    for name, value in vars(optimizer).items():
        # A copy holds what every optimizer has; a schedule wraps `step` of the original.
        if name not in vars(twin) and not callable(value):
            setattr(twin, name, copy.deepcopy(value))
    return twin


def _held(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _state(optimizer: Optimizer, parameter: Tensor) -> list[Tensor]:
    values = optimizer.state.get(parameter, {}).values()
    return [value for value in values if isinstance(value, Tensor)]


def _all_equal(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    """To the bit."""
    return len(some) == len(others) and all(map(_equal, some, others))


def _equal(one: Tensor, other: Tensor) -> bool:
    if torch.equal(one, other):
        return True
    # Weights of a run that diverged are NaN, and still alike.
    return one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
