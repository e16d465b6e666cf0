"""Canaries that are images: what somebody sees who is given the trained model alone.

Each is added to the training images by a fair coin; a model that was trained on it has a lower loss
on it. One training answers for all of them: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846).
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from scipy import stats
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.audit.bounds import best_one_run_epsilon
from dpmix.clipping.loss import Loss
from dpmix.clipping.types import ClippedSum, zero_sum
from dpmix.data.source import ImageSource, TensorSource
from dpmix.errors import DpmixError
from dpmix.models.finetune import train_mode
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness, StepRandomness, Stream
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.trainer import PrivateTrainer, StepDiagnostics
from dpmix.views.builder import ViewSource

# What an audit hears of a step: what was clipped, what noise was added to, what came out.


class Ear(GaussianNoise):
    """A trainer's noise, which also notes what happens around it.

    Attributes:
        examples: that were clipped since the step began.
        clipped: the sum of what clipping returned for them.
        longest: largest norm of what clipping ever returned, in units of C for each example.
        given: [P], the sum that the noise was added to.
        released: what came out.
        noise: [P], the difference of the two, on the scale of the sum.
        gradients: what the optimizer stepped on.
        optimizer_steps: taken since the step began.
        releases: made in all.
    """

    def __init__(
        self, plan: PrivacyPlan, parameters: list[nn.Parameter], noise: GaussianNoise
    ) -> None:
        self._plan, self._parameters, self._inner = plan, parameters, noise
        self.std, self.denominator = noise.std, noise.denominator
        self.sensitivity = noise.sensitivity
        self.longest, self.releases = 0.0, 0

    def begin(self) -> None:
        """A step begins."""
        self.examples: list[Int64[Tensor, " E"]] = []
        self.clipped = zero_sum(self._parameters)
        self.gradients: list[Tensor] = []
        self.optimizer_steps = 0

    def hear_clipped(self, examples: Int64[Tensor, " E"], gradients: list[Tensor]) -> None:
        """Clipping returned the sum `gradients` for `examples`."""
        self.examples.append(examples)
        torch._foreach_add_(self.clipped, gradients)
        norm = float(torch.stack([one.norm() for one in gradients]).norm())
        self.longest = max(self.longest, norm / (len(examples) * self._plan.max_grad_norm))

    def release(self, clipped_sum: list[Tensor], rng: Stream) -> list[Tensor]:
        """As the noise that it listens to."""
        self.given = flat(clipped_sum)
        released = self._inner.release(clipped_sum, rng)
        self.released = [one.clone() for one in released]
        self.noise = flat(released) * self._plan.denominator - self.given
        self.releases += 1
        return released

    def hear_optimizer(self, optimizer: Optimizer, *_: object) -> None:
        """Hook of the optimizer, which is about to step."""
        self.gradients = [p.grad.clone() for p in self._parameters if p.grad is not None]
        self.optimizer_steps += 1


def flat(tensors: list[Tensor]) -> Float64[Tensor, " P"]:
    """All numbers of `tensors`, copied to the host."""
    return torch.cat([tensor.detach().flatten().cpu().double() for tensor in tensors])


# Whether numbers repeat at a distance: the correlation of rows with themselves, shifted.


class Echo:
    """Adds up the circular autocorrelation of rows of independent numbers of mean 0.

    Noise that two halves of a vector share, with either sign, or that neighbours share in part,
    shows at one shift; a constant that was added to all numbers shows at every shift.
    """

    def __init__(self, length: int) -> None:
        self._length, self._rows = length, 0
        self._power = np.zeros(length // 2 + 1)

    def add(self, row: Float64[np.ndarray, " L"]) -> None:
        """Take one more row, of the length that all have."""
        self._power += np.abs(np.fft.rfft(row)) ** 2
        self._rows += 1

    def p_value(self) -> float:
        """Of the largest correlation at any shift: an upper bound, if the rows have no structure.

        At the shift of half the length each product counts twice, so that the variance doubles.
        All shifts are given that variance, which also covers the longer tails of sums of products.
        """
        sums = np.fft.irfft(self._power, n=self._length)
        shifts = sums[1 : self._length // 2 + 1]
        if not len(shifts) or not sums[0] > 0:
            return 1.0
        highest = float(np.abs(shifts).max() / sums[0]) * np.sqrt(self._length * self._rows / 2)
        return float(min(1.0, 2 * len(shifts) * stats.norm.sf(highest)))


# A trainer with canaries in gradient space: vectors of norm C that a release would betray.
#
# Canary i stands for an example whose clipped gradient is C times the unit vector of a parameter
# that no other canary has, in every step. It is drawn like any example, with the plan's q, and its
# C is added to the sum, before the noise. A guesser who knows all other gradients of a step, which
# the threat model allows, looks at what the optimizer steps on and is left with s ~ N(0, sigma^2),
# or N(1, sigma^2) where the canary was drawn, in units of C. Such "Dirac" canaries are the
# strongest: Nasr et al. 2023 (arXiv 2302.07956).


class CanaryTrainer(PrivateTrainer):
    """A `PrivateTrainer` in which canaries were planted; for audits only.

    Attributes:
        ear: what was heard of the last step; from `plant` on.
        members: N, canaries that are in included; from `plant` on.
    """

    ear: Ear
    members: int

    def plant(self, included: Bool[np.ndarray, " M"], places: Int64[np.ndarray, " M"]) -> None:
        """Add the canaries that are `included`; call it once, before the first step.

        Args:
            included: of M canaries, those that are in.
            places: each canary's parameter, by its number among all of them; all different.

        Raises:
            DpmixError: a method that joins examples, or a run without privacy.
        """
        if self.views.spec.examples_per_group > 1 or not self.plan.private:
            raise DpmixError(
                f"gradient canaries can't audit method {self.views.spec.method} at sigma "
                f"{self.plan.noise_multiplier:g}; expected noise, and a method of sensitivity C"
            )
        self._louder: dict[float, Loss] = {}
        self._places = torch.from_numpy(places)
        self._canaries = torch.from_numpy(np.flatnonzero(included))
        self.members = len(self.data) + len(self._canaries)
        self._sampler = PoissonSampler(self.plan, self.members)
        self.ear = Ear(self.plan, self.parameters, self._noise)
        self._noise = self.ear
        self._clip = lambda _, examples, draws: self._with_canaries(examples, draws)

    @property
    def heard(self) -> Float64[np.ndarray, " M"]:
        """What the optimizer got in the last step of each canary: s."""
        seen, unit = self.ear.gradients or self.ear.released, self.plan.max_grad_norm
        drawn = torch.zeros(len(self._places), dtype=torch.float64)
        drawn[self._drawn_canaries(torch.cat([torch.empty(0).long(), *self.ear.examples]))] = 1
        others = flat(self.ear.clipped)[self._places] - unit * drawn
        return ((flat(seen)[self._places] * self.plan.denominator - others) / unit).numpy()

    def step(self) -> StepDiagnostics:
        """As a `PrivateTrainer`, and heard."""
        self.ear.begin()
        hook = self.optimizer.register_step_pre_hook(self.ear.hear_optimizer)
        try:
            return super().step()
        finally:
            hook.remove()

    def sum_of(
        self, examples: Int64[Tensor, " E"], views: ViewSource, loudness: float
    ) -> ClippedSum:
        """The sum of clipped gradients of these `views` of `examples`, as a step computes it.

        Args:
            examples: of the data; no canaries.
            views: instead of the trainer's.
            loudness: the loss is multiplied by it, and so is each gradient before it is clipped.
        """
        loss = self.loss
        if loudness != 1:
            loss = self._louder.setdefault(loudness, _times(loudness, loss))
        train_mode(self.model)
        with warnings.catch_warnings():
            # An infinite loss passes no probe, so another engine takes the sum.
            warnings.filterwarnings("ignore", message="engine .* is not used")
            return self.clipped_sum(examples, Randomness(None).step(0), views=views, loss=loss)

    def _with_canaries(self, examples: Int64[Tensor, " E"], draws: StepRandomness) -> ClippedSum:
        own = examples[examples < len(self.data)]
        if len(own):
            part = self.clipped_sum(own, draws)
        else:
            empty = torch.zeros(0)
            part = ClippedSum(zero_sum(self.parameters), empty, empty, engine=self.engine.name)
        places = self._places[self._drawn_canaries(examples)]
        _add_at(part.gradients, places, self.plan.max_grad_norm)
        self.ear.hear_clipped(examples, part.gradients)
        return part

    def _drawn_canaries(self, examples: Int64[Tensor, " E"]) -> Int64[Tensor, " D"]:
        """Which canaries are among the `examples` of a step."""
        return self._canaries[examples[examples >= len(self.data)] - len(self.data)]


def _times(loudness: float, loss: Loss) -> Loss:
    return lambda logits, soft: loudness * loss(logits, soft)


def _add_at(tensors: list[Tensor], places: Int64[Tensor, " D"], amount: float) -> None:
    """Add `amount` at the places, in the tensors themselves."""
    start = 0
    for tensor in tensors:
        mine = places[(places >= start) & (places < start + tensor.numel())] - start
        if len(mine):
            tensor.view(-1)[mine.to(tensor.device)] += amount
        start += tensor.numel()


ImageKind = Literal["mislabelled", "pattern"]


_CELLS = 4


@dataclass(frozen=True, eq=False)
class WithCanaries:
    """An `ImageSource` of `base` and, after it, of `added`."""

    base: ImageSource
    added: TensorSource

    @property
    def class_names(self) -> tuple[str, ...]:
        """As those of `base`."""
        return self.base.class_names

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Of both."""
        return torch.cat([self.base.labels, self.added.labels])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """As that of `base`."""
        return self.base.image_shape

    def __len__(self) -> int:
        return len(self.base) + len(self.added)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """From either."""
        found = torch.empty((len(indices), *self.image_shape), dtype=torch.uint8)
        own = indices < len(self.base)
        found[own] = self.base.images(indices[own]).cpu()
        found[~own] = self.added.images(indices[~own] - len(self.base))
        return found


@dataclass(frozen=True)
class ImageAudit:
    """What an audit by images found.

    Attributes:
        kind: of the canaries.
        claimed: epsilon of the plan at `delta`.
        delta: of the plan.
        one_run: lower bound on epsilon.
        confidence: of it.
        canaries: guessed at, over all runs.
        runs: trained.
    """

    kind: ImageKind
    claimed: float
    delta: float
    one_run: float
    confidence: float
    canaries: int
    runs: int

    @property
    def lower_bound(self) -> float:
        """The one there is."""
        return self.one_run

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, at the confidence."""
        return self.lower_bound > self.claimed


def make_canaries(
    kind: ImageKind, count: int, held_out: ImageSource, rng: np.random.Generator
) -> TensorSource:
    """So many images with a label each that no training image teaches.

    Args:
        kind: held-out images with a wrong label, or coarse patterns of random colours with any.
        count: at most the held-out images, for the former.
        held_out: of the private data's shape and classes.
        rng: of all choices.

    Raises:
        DpmixError: more of them than held-out images, or a single class.
    """
    classes, names = len(held_out.class_names), held_out.class_names
    if kind == "pattern":
        channels, height, width = held_out.image_shape
        cells = torch.from_numpy(rng.random((count, channels, _CELLS, _CELLS)))
        pixels = (nn.functional.interpolate(cells, (height, width)) * 255).to(torch.uint8)
        return TensorSource(pixels, torch.from_numpy(rng.integers(0, classes, count)), names)
    if count > len(held_out) or classes < 2:
        raise DpmixError(
            f"{count:,} mislabelled canaries were asked for but there are {len(held_out):,} test "
            f"images of {classes} classes to make them of; give fewer canaries, or kind pattern"
        )
    index = torch.from_numpy(rng.permutation(len(held_out))[:count])
    shift = torch.from_numpy(rng.integers(1, classes, count))
    return TensorSource(
        held_out.images(index).cpu(), (held_out.labels[index] + shift) % classes, names
    )


def audit_images(
    train: Callable[[ImageSource], Callable[[ImageSource], Float64[np.ndarray, " M"]]],
    *,
    kind: ImageKind,
    data: ImageSource,
    held_out: ImageSource,
    claimed: float,
    delta: float,
    canaries: int,
    runs: int,
    confidence: float,
    rng: np.random.Generator,
) -> ImageAudit:
    """Train with canaries among the images, guess from the model which were in, bound epsilon.

    Args:
        train: trains on what it is given, and returns a function from images to how much lower
            their loss is than it was before.
        kind: of the canaries.
        data: the private images, all of which are in.
        held_out: as in `make_canaries`.
        claimed: epsilon of a run.
        delta: of a run.
        canaries: M of a run.
        runs: of the whole training.
        confidence: of the bound.
        rng: of the canaries and of the random draws that include them.

    Raises:
        DpmixError: as `make_canaries` raises.
    """
    scores: list[Float64[np.ndarray, " M"]] = []
    draws: list[Bool[np.ndarray, " M"]] = []
    for _ in range(runs):
        made = make_canaries(kind, canaries, held_out, rng)
        included = rng.random(canaries) < 0.5
        some = torch.from_numpy(np.flatnonzero(included))
        added = replace(made, pixels=made.pixels[some], labels=made.labels[some])
        gained = train(WithCanaries(data, added))
        scores.append(gained(made))
        draws.append(included)
    found = best_one_run_epsilon(np.concatenate(scores), np.concatenate(draws), delta, confidence)
    return ImageAudit(kind, claimed, delta, found, confidence, canaries * runs, runs)
