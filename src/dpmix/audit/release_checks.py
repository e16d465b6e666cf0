"""Whether noise is added to the clipped sum, and the weights follow from what was released."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from scipy import stats
from torch import Tensor
from torch.optim import Optimizer

from dpmix.audit.canaries import CanaryTrainer, Echo, flat
from dpmix.audit.invariants import Invariant, by_chance, exactly, two_sided, worst_of

# Whether the examples of all steps are independent draws at rate q, as Poisson sampling has it.


# Fewer numbers, draws or pairs of draws are too far from the laws that they are compared with.
_MANY, _MANY_DRAWS, _MANY_PAIRS = 30, 100, 25


class DrawChecks:
    """Hears which examples each step used.

    Args:
        classes: of the data's examples, the first ones.
        examples: N, canaries that are in included.
        rate: q.
    """

    def __init__(self, classes: Int64[np.ndarray, " D"], examples: int, rate: float) -> None:
        self._classes, self._examples, self._rate = classes, examples, rate
        self._counts = np.zeros(examples, dtype=np.int64)
        self._sizes: list[int] = []
        self._last: Int64[np.ndarray, " B"] | None = None
        self._trials = self._again = 0
        self._twice = False
        self._echo = Echo(examples)

    def hear(self, drawn: Int64[np.ndarray, " B"]) -> None:
        """Take one more step."""
        self._twice |= len(np.unique(drawn)) < len(drawn)
        self._sizes.append(len(drawn))
        self._counts += np.bincount(drawn, minlength=self._examples)
        if self._last is not None:
            self._trials += len(self._last)
            self._again += int(np.isin(drawn, self._last).sum())
        self._last = drawn
        centred = np.full(self._examples, -self._rate)
        centred[drawn] += 1
        self._echo.add(centred)

    def found(self) -> Invariant:
        """Whether they are Poisson draws."""
        name, steps, sizes = "draws of examples", len(self._sizes), np.array(self._sizes)
        failed = {"an example was used twice in a step": self._twice}
        if self._rate == 1:
            failed["an example was left out"] = not (sizes == self._examples).all()
            return exactly(name, "everyone in every step (q = 1)", failed)
        if self._twice:
            return exactly(name, "", failed)
        # Not their number itself: where N is not public, that would tell it.
        found = f"those of {steps} steps, next to independent draws with probability q"
        return by_chance(name, found, self._tests(sizes, steps))

    def _tests(self, sizes: Int64[np.ndarray, " T"], steps: int) -> dict[str, float]:
        rate, examples = self._rate, self._examples
        members = np.bincount(self._classes)
        of_class = np.bincount(self._classes, self._counts[: len(self._classes)])
        tests = {
            "the number of draws": worst_of(
                two_sided(stats.binom(steps * examples, rate), int(sizes.sum()))
            ),
            "the largest or smallest step": _extreme(sizes, examples, rate),
            "how the sizes of steps vary": _spread(sizes, examples, rate),
            "the example that was drawn most or least": _extreme(self._counts, steps, rate),
            "how often each example was drawn": _spread(self._counts, steps, rate),
            "the draws of one class": worst_of(
                two_sided(stats.binom(members * steps, rate), of_class)
            ),
            "examples that were drawn again in the next step": self._next_step(),
        }
        if steps * examples * min(rate, 1 - rate) ** 2 >= _MANY_PAIRS:
            tests["examples that are drawn together"] = self._echo.p_value()
        return tests

    def _next_step(self) -> float:
        """P-value of the draws of those drawn a step before: Freedman's inequality (1975).

        Each is an independent draw at rate q, whatever was drawn before: a martingale.
        """
        rate = self._rate
        excess = abs(self._again - rate * self._trials)
        room = rate * (1 - rate) * self._trials + excess * max(rate, 1 - rate) / 3
        return min(1.0, 10 * math.exp(-(excess**2) / (2 * room))) if room else 1.0


def _extreme(values: Int64[np.ndarray, " V"], trials: int, rate: float) -> float:
    """P-value of the largest and the smallest of some Binomial(trials, rate) numbers."""
    law = stats.binom(trials, rate)
    tails = min(law.sf(values.max() - 1), law.cdf(values.min()))
    return float(min(1.0, 2 * len(values) * tails))


def _spread(values: Int64[np.ndarray, " V"], trials: int, rate: float) -> float:
    """P-value of the sum of squares of independent Binomial(trials, rate) numbers.

    A gamma distribution of its mean and variance: near enough where many draws were expected.
    """
    variance = trials * rate * (1 - rate)
    if len(values) < _MANY or len(values) * variance < _MANY_DRAWS or trials < 2:
        return 1.0
    spread = float(((values - trials * rate) ** 2).sum()) / variance
    scale = 1 + (1 - 6 * rate * (1 - rate)) / (2 * variance)
    return float(two_sided(stats.gamma(len(values) / (2 * scale), scale=2 * scale), spread))


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
