"""Canaries that a release would betray: vectors of norm C in gradient space, and images.

Gradient canary i stands for an example whose clipped gradient is C times the unit vector of a
parameter that no other canary has ("Dirac" canaries: Nasr et al. 2023, arXiv 2302.07956). It is
drawn with the plan's q, and its C is added to the sum before the noise. A guesser who knows all
other gradients of a step is left with s ~ N(0, sigma^2), or N(1, sigma^2) where the canary was
drawn, in units of C. An image canary is added to the training images with probability 1/2; a model
that was trained on it has a lower loss on it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.audit.bounds import best_one_run_epsilon
from dpmix.clipping.types import ClippedSum, zero_sum
from dpmix.data.persons import Persons
from dpmix.data.source import ImageSource, TensorSource, known_persons
from dpmix.errors import DpmixError
from dpmix.privacy.noise import DrawnNoise, GaussianNoise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import StepRandomness
from dpmix.privacy.sampling import PoissonSampler
from dpmix.reports.audit_report import AuditFindings
from dpmix.training.trainer import PrivateTrainer

_CELLS = 4
Gained = Callable[[ImageSource], Float64[np.ndarray, " M"]]


class RecordedNoise(GaussianNoise):
    """The plan's noise, and what it did last: the sum it was `given` [P], `noise` [P], `released`.

    `noise` is on the scale of the sum; `releases` counts.
    """

    def __init__(self, plan: PrivacyPlan) -> None:
        super().__init__(plan)
        self._scale, self.releases = plan.denominator, 0

    def release(self, clipped_sum: list[Tensor], drawn: DrawnNoise) -> list[Tensor]:
        """Add noise as `GaussianNoise` does, and record it."""
        self.given = flat(clipped_sum)
        released = super().release(clipped_sum, drawn)
        self.released = [one.clone() for one in released]
        self.noise = flat(released) * self._scale - self.given
        self.releases += 1
        return released


class CanaryRun:
    """A trainer in which gradient canaries are planted, and the record of its last step.

    Args:
        make: builds the trainer from `sampler`, `noise` and `clipped_sum` of `PrivateTrainer`.
        plan: the plan that the trainer follows.
        examples: number of training images, or persons, without canaries.
        included: [M], which canaries are in.
        places: [M], each canary's parameter, by its number among all of them; all different.

    Attributes:
        members: N, included canaries among them.
        used: the examples and canaries that were clipped in the step, one tensor for each chunk.
        clipped: the sum of what clipping returned for them.
        longest: largest norm of what clipping ever returned, in units of C for each example.
        gradients: what the optimizer stepped on, `optimizer_steps` times.

    Raises:
        DpmixError: a method that joins examples, or a run without privacy.
    """

    def __init__(
        self,
        make: Callable[..., PrivateTrainer],
        plan: PrivacyPlan,
        examples: int,
        included: Bool[np.ndarray, " M"],
        places: Int64[np.ndarray, " M"],
    ) -> None:
        self._places = torch.from_numpy(places)
        self._included = torch.from_numpy(np.flatnonzero(included))
        self.plan, self._examples = plan, examples
        self.members = examples + len(self._included)
        self.noise, self.longest = RecordedNoise(plan), 0.0
        self.trainer = make(
            sampler=PoissonSampler(plan, self.members), noise=self.noise,
            clipped_sum=self._clipped_sum,
        )  # fmt: skip
        spec = self.trainer.views.spec
        if spec.examples_per_group > 1 or not plan.private:
            raise DpmixError(
                f"gradient canaries can't audit method {spec.method} at sigma "
                f"{plan.noise_multiplier:g}; expected noise, and a method of sensitivity C"
            )

    def step(self) -> None:
        """Let the trainer take a step, and record it."""
        self.used: list[Int64[Tensor, " E"]] = [torch.empty(0).long()]
        self.clipped = zero_sum(self.trainer.parameters)
        self.gradients: list[Tensor] = []
        self.optimizer_steps = 0
        hook = self.trainer.optimizer.register_step_pre_hook(self._before_update)
        try:
            self.trainer.step()
        finally:
            hook.remove()

    def scores(self) -> Float64[np.ndarray, " M"]:
        """Log-likelihood ratio of "in" against "out" for each canary, from the last step."""
        q, sigma = self.plan.sampling_rate, self.plan.noise_multiplier
        shift = (2 * self.seen() - 1) / (2 * sigma**2)
        if q == 1:
            return shift
        ratio: Float64[np.ndarray, " M"] = np.logaddexp(math.log1p(-q), math.log(q) + shift)
        return ratio

    def seen(self) -> Float64[np.ndarray, " M"]:
        """What the optimizer got of each canary in the last step: s, in units of C."""
        got, bound = self.gradients or self.noise.released, self.plan.max_grad_norm
        drawn = torch.zeros(len(self._places), dtype=torch.float64)
        drawn[self._canaries_in(torch.cat(self.used))] = 1
        others = flat(self.clipped)[self._places] - bound * drawn
        return ((flat(got)[self._places] * self.plan.denominator - others) / bound).numpy()

    def _before_update(self, optimizer: Optimizer, *_: object) -> None:
        grads = [parameter.grad for parameter in self.trainer.parameters]
        self.gradients = [grad.clone() for grad in grads if grad is not None]
        self.optimizer_steps += 1

    def _clipped_sum(
        self, trainer: PrivateTrainer, examples: Int64[Tensor, " E"], draws: StepRandomness
    ) -> ClippedSum:
        """The trainer's own clipped sum of the examples, and C for each canary among them."""
        own, bound = examples[examples < self._examples], self.plan.max_grad_norm
        if len(own):
            part = trainer.clipped_sum(own, draws)
        else:
            empty, none = torch.zeros(0), zero_sum(trainer.parameters)
            part = ClippedSum(none, empty, empty, engine=trainer.engine.name)
        places, start = self._places[self._canaries_in(examples)], 0
        for tensor in part.gradients:
            mine = places[(places >= start) & (places < start + tensor.numel())] - start
            tensor.view(-1)[mine.to(tensor.device)] += bound
            start += tensor.numel()
        self.used.append(examples)
        torch._foreach_add_(self.clipped, part.gradients)
        norm = float(torch.stack([one.norm() for one in part.gradients]).norm())
        self.longest = max(self.longest, norm / (len(examples) * bound))
        return part

    def _canaries_in(self, examples: Int64[Tensor, " E"]) -> Int64[Tensor, " D"]:
        return self._included[examples[examples >= self._examples] - self._examples]


def flat(tensors: list[Tensor]) -> Float64[Tensor, " P"]:
    """All numbers of `tensors`, copied to the host."""
    return torch.cat([tensor.detach().flatten().cpu().double() for tensor in tensors])


@dataclass(frozen=True, eq=False)
class _WithCanaries:
    """An `ImageSource` of `base` and, after it, of `added`."""

    base: ImageSource
    added: TensorSource

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.base.class_names

    @property
    def labels(self) -> Int64[Tensor, "N *L"]:
        return torch.cat([self.base.labels, self.added.labels])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.base.image_shape

    @property
    def persons(self) -> Persons | None:
        """A canary is a person by itself."""
        known = known_persons(self.base)
        return None if known is None else known.and_others(len(self.added))

    def __len__(self) -> int:
        return len(self.base) + len(self.added)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        found = torch.empty((len(indices), *self.image_shape), dtype=torch.uint8)
        own = indices < len(self.base)
        found[own] = self.base.images(indices[own]).cpu()
        found[~own] = self.added.images(indices[~own] - len(self.base))
        return found


def make_patterns(like: ImageSource, count: int, rng: np.random.Generator) -> TensorSource:
    """Coarse patterns of random colours and random labels, of the shape and classes of `like`."""
    channels, height, width = like.image_shape
    cells = torch.from_numpy(rng.random((count, channels, _CELLS, _CELLS)))
    pixels = (nn.functional.interpolate(cells, (height, width)) * 255).to(torch.uint8)
    names = like.class_names
    high, size = (len(names), (count,)) if like.labels.ndim == 1 else (2, (count, len(names)))
    return TensorSource(pixels, torch.from_numpy(rng.integers(0, high, size)), names)


def audit_images(
    train: Callable[[ImageSource], Gained],
    *,
    data: ImageSource,
    plan: PrivacyPlan,
    canaries: int,
    runs: int,
    confidence: float,
    rng: np.random.Generator,
) -> AuditFindings:
    """Train with patterns among the images, guess from the model which were in, bound epsilon.

    One training answers for all of them: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846).

    `train` trains on images and returns a function from images to how much lower their loss is than
    before; the other arguments are those of `audit_gradients`.
    """
    scores: list[Float64[np.ndarray, " M"]] = []
    draws: list[Bool[np.ndarray, " M"]] = []
    for _ in range(runs):
        made = make_patterns(data, canaries, rng)
        included = rng.random(canaries) < 0.5
        some = torch.from_numpy(np.flatnonzero(included))
        added = replace(made, pixels=made.pixels[some], labels=made.labels[some])
        scores.append(train(_WithCanaries(data, added))(made))
        draws.append(included)
    score, drawn = np.concatenate(scores), np.concatenate(draws)
    return AuditFindings(
        kind="pattern", claimed=plan.epsilon, delta=plan.delta, confidence=confidence,
        one_run=best_one_run_epsilon(score, drawn, plan.delta, confidence),
        canaries=canaries * runs, runs=runs,
    )  # fmt: skip
