"""Exact tests of the steps of one run, made while it runs.

Does one example move the sum by at most C? Some examples of every class are tried before and after
training, and one after each step, each alone and once more with a loss that is many times as large,
so that clipping has work to do. A sum of what its examples add alone, each of norm C or less, has
sensitivity C.

Do the weights follow from what was released? A twin of the optimizer, with a copy of the weights,
gets the optimizer's gradients and nothing else. It steps just before the real one takes its next
step: if that one reads anything else of a step, it has changed by then.
"""

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.optim import Optimizer

from dpmix.audit.canaries import CanaryRun, flat
from dpmix.audit.invariants import exactly
from dpmix.clipping.model_check import same_bits
from dpmix.clipping.types import Loss
from dpmix.data.source import ImageSource, unit_labels
from dpmix.models.finetune import train_mode
from dpmix.privacy.randomness import Randomness
from dpmix.reports.audit_report import Finding
from dpmix.views.builder import ViewSet
from dpmix.views.spec import ViewSpec

# Examples of each class at least, and in all; and of a group whose views are built together.
_OF_A_CLASS, _IN_ALL, _TOGETHER = 2, 32, 8
# Norms and sums are float64, but of gradients in float32; kernels may differ with the batch's size,
# and round to TF32 off the CPU.
_ROUNDING, _CPU_KERNELS, _KERNELS = 1e-5, 1e-3, 1e-2
# Gradients are made this long, in C. Those that were shorter than the second, or than this part of
# the longest, are mostly rounding by then.
_LOUD, _AUDIBLE, _PART = 100.0, 1e-3, 1e-2
# Sums in another order, next to C.
_SUM_ROUNDING = 1e-6


class ExampleChecks:
    """Tries some examples of every class: their norms, their neighbours, their views."""

    def __init__(self, run: CanaryRun, rng: np.random.Generator) -> None:
        self._run, self._trainer, self._rng = run, run.trainer, rng
        self._bound, data = run.plan.max_grad_norm, run.trainer.data
        labels = unit_labels(data, run.plan.unit)
        self._count = len(labels)
        chosen = of_every_class(labels, len(data.class_names), rng)
        self._groups = chosen.tensor_split(-(-len(chosen) // _TOGETHER))
        self._failed, self._compared = set[str](), False
        self._louder: dict[float, Loss] = {1.0: run.trainer.loss}

    def clip(self, *, compare: bool) -> None:
        """Clip them at the weights as they are now.

        `compare` also compares their sum with what they add one by one: not after training, when
        some gradients may be mostly rounding.
        """
        for group in self._groups:
            self._clip(group, compare=compare)

    def add(self, used: Int64[Tensor, " B"]) -> None:
        """Clip one of the examples that the last step used."""
        own = used[used < self._count]
        if len(own):
            self._clip(own[int(self._rng.integers(len(own)))][None], compare=False)

    def _clip(self, group: Int64[Tensor, " G"], *, compare: bool) -> None:
        trainer = self._trainer
        seen = trainer.views.sample(trainer.data, group, self._rng, trainer.device)
        views = _Pinned(trainer.views.spec, group, seen)
        if self._sum(group, views, math.inf)[0].any():
            self._failed.add("a gradient that is not finite counts")
        raw = [self._sum(one[None], views, 1.0)[1] for one in group]
        least = max(_AUDIBLE * self._bound, _PART * max(raw))
        loud = [norm >= least for norm in raw]
        alone = torch.zeros((), dtype=torch.float64)
        for one, norm, counts in zip(group, raw, loud, strict=True):
            total, _ = self._sum(one[None], views, self._loudness(norm) if norm else 1.0)
            alone = alone + total if counts else alone
        # With dropout, two passes differ.
        again = (self._sum(group[:1], views, 1.0)[0] for _ in range(2))
        if not compare or sum(loud) < 2 or not torch.equal(*again):
            return
        loudness = self._loudness(min(norm for norm in raw if norm >= least))
        together, _ = self._sum(group[torch.tensor(loud)], views, loudness)
        kernels = _CPU_KERNELS if trainer.device.type == "cpu" else _KERNELS
        if float((together - alone).norm()) > kernels * self._bound * sum(loud):
            self._failed.add("what an example adds depends on the others")
        self._compared = True

    def _loudness(self, norm: float) -> float:
        # Powers of two alone: the engine first tries every new loss on noise, for a second.
        return 2.0 ** math.ceil(math.log2(_LOUD * self._bound / norm))

    def clipping(self) -> Finding:
        """Whether none added more than C, nor another vector next to others than alone."""
        if self._run.longest > 1 + _ROUNDING:
            self._failed.add("a step's sum is longer than its number of examples allows")
        bound = self._bound * self._run.plan.sensitivity_multiplier
        # Their norms themselves are private.
        found = f"examples of every class, none above sensitivity {bound:.6g}"
        together = ", whatever others are clipped with it" if self._compared else ""
        return exactly("clipped gradients", found + together, self._failed)

    def views(self) -> Finding:
        """Whether an example's views stay as they are when its neighbour is exchanged."""
        failed, name, count = set[str](), "views of one example", self._count
        if count < 2:
            return Finding(name=name, holds=True, found="there is one example only", tested=False)
        for group in self._groups:
            seed = int(self._rng.integers(1 << 62))
            whole = self._built(group, seed)
            for place in range(len(group)):
                changed, others = group.clone(), torch.arange(len(group)) != place
                changed[place] += int(self._rng.integers(1, count))
                after = self._built(changed % count, seed)
                if not (
                    same_bits(whole.views[others], after.views[others])
                    and same_bits(whole.labels[others], after.labels[others])
                ):
                    failed.add("some examples changed the views of another")
        return exactly(name, "examples of every class, none changed the views of another", failed)

    def _sum(
        self, examples: Int64[Tensor, " E"], views: "_Pinned", loudness: float
    ) -> tuple[Float64[Tensor, " P"], float]:
        """What they add with `loudness` times the loss, and the first one's norm; 0: not finite."""
        if loudness not in self._louder:
            plain = self._trainer.loss
            self._louder[loudness] = lambda logits, soft: loudness * plain(logits, soft)
        train_mode(self._trainer.model)
        with warnings.catch_warnings():
            # An infinite loss passes no probe, so another engine takes the sum.
            warnings.filterwarnings("ignore", message="engine .* is not used")
            part = self._trainer.clipped_sum(
                examples, Randomness(None).step(0), views=views, loss=self._louder[loudness]
            )
        total, norm = flat(part.gradients), float(part.norms[0])
        if float(total.norm()) > self._bound * len(examples) * (1 + _ROUNDING):
            self._failed.add("some examples above the sensitivity")
        return total, norm if math.isfinite(norm) else 0.0

    def _built(self, group: Int64[Tensor, " G"], seed: int) -> ViewSet:
        rng, trainer = np.random.default_rng(seed), self._trainer
        return trainer.views.sample(trainer.data, group, rng, trainer.device)


def of_every_class(
    labels: Int64[Tensor, " N"], classes: int, rng: np.random.Generator
) -> Int64[Tensor, " E"]:
    """Two random examples of each class, or as many as make 32; class after class."""
    shuffled = torch.from_numpy(rng.permutation(len(labels)))
    most = max(_OF_A_CLASS, _IN_ALL // classes)
    return torch.cat([shuffled[labels[shuffled] == one][:most] for one in range(classes)])


@dataclass(frozen=True)
class _Pinned:
    """A `ViewSource` of views that were built before, so that two sums are of the same ones."""

    spec: ViewSpec
    examples: Int64[Tensor, " E"]
    seen: ViewSet

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        return tuple(self.seen.views.shape[2:])

    def check_data(self, data: ImageSource) -> None:
        """They were built of it."""

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        rows = torch.stack([torch.nonzero(self.examples == one)[0, 0] for one in examples])
        return ViewSet(self.seen.views[rows], self.seen.labels[rows])


class ReleaseChecks:
    """Tests what goes into the noise, and what becomes of a release."""

    def __init__(self, run: CanaryRun) -> None:
        self._run, self._optimizer = run, run.trainer.optimizer
        self._twin = _twin(self._optimizer)
        self._pending: dict[Tensor, Tensor] = {}
        self._hook = self._optimizer.register_step_pre_hook(lambda *_: self._follow())
        trained = {id(parameter) for parameter in run.trainer.parameters}
        held = (*run.trainer.model.parameters(), *run.trainer.model.buffers())
        self._others = [tensor for tensor in held if id(tensor) not in trained]
        self._before = [tensor.detach().clone() for tensor in self._others]
        self._steps = 0
        self._added, self._replaced, self._moved = set[str](), set[str](), set[str]()

    def add(self) -> None:
        """Take the step that was just done."""
        run, noise, parameters = self._run, self._run.noise, self._run.trainer.parameters
        self._steps += 1
        room = _SUM_ROUNDING * run.plan.max_grad_norm
        clipped = flat(run.clipped)
        if not torch.allclose(noise.given, clipped, rtol=_SUM_ROUNDING, atol=room):
            self._added.add("noise was added to something else")
        if run.optimizer_steps != 1 or noise.releases != self._steps:
            self._replaced.add("not one release and one step of the optimizer in each step")
        released = [one.to(p.dtype) for one, p in zip(noise.released, parameters, strict=True)]
        if not _all_equal(released, run.gradients):
            self._replaced.add("the optimizer stepped on something else than the release")
        self._pending = dict(zip(parameters, run.gradients, strict=False))

    def found(self) -> tuple[Finding, ...]:
        """What was seen, once all steps are done."""
        self._hook.remove()
        self._follow()
        if not _all_equal(self._others, self._before):
            self._moved.add("weights or buffers that are not trained changed")
        given = "noise was added to the sum of clipped gradients, in every step"
        alone = "what was released and nothing else, once in every step"
        follow = "they and the optimizer's state follow from the optimizer's gradients alone"
        return (
            exactly("sum before the noise", given, self._added),
            exactly("gradients of the optimizer", alone, self._replaced),
            exactly("trained weights", follow, self._moved),
        )

    def _follow(self) -> None:
        """The twin takes the step that the real optimizer took last."""
        if not self._pending:
            return
        pairs = list(zip(_held(self._optimizer), _held(self._twin), strict=True))
        for own, twins in pairs:
            twins.grad = self._pending[own]
        self._pending = {}
        self._twin.step()
        for own, twins in pairs:
            if not _all_equal([own], [twins]):
                self._moved.add("the weights do not follow from the optimizer's gradients")
            if not _all_equal(_state(self._optimizer, own), _state(self._twin, twins)):
                self._moved.add("the optimizer's state does not follow from its gradients")


def _twin(optimizer: Optimizer) -> Optimizer:
    """A copy with copies of the parameters, and without hooks."""
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
    """Whether they are equal to the bit; NaN, as of a run that diverged, equals NaN."""
    return len(some) == len(others) and all(
        torch.equal(one, other)
        or (one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True))
        for one, other in zip(some, others, strict=True)
    )
