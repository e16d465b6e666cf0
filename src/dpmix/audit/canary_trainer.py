"""A trainer with canaries in gradient space: vectors of norm C that a release would betray.

Canary i stands for an example whose clipped gradient is C times the unit vector of a parameter of
its own, in every step. It is drawn like any example, with the plan's q, and its C is added to the
sum, before the noise. A guesser who knows all other gradients of a step, which the threat model
allows, is left with s ~ N(0, sigma^2), or N(1, sigma^2) where the canary was drawn, in units of C.
Such "Dirac" canaries are the strongest: Nasr et al. 2023 (arXiv 2302.07956).
"""

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.privacy.clipping import ClippedSum, zero_sum
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.randomness import Randomness, StepRandomness
from dpmix.privacy.sampling import PoissonSampler
from dpmix.privacy.secure_stream import Stream
from dpmix.training.step import PrivateTrainer


class CanaryTrainer(PrivateTrainer):
    """A `PrivateTrainer` in which canaries were planted; for audits only."""

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
        self._places = torch.from_numpy(places)
        self._members = torch.from_numpy(np.flatnonzero(included))
        self._sampler = PoissonSampler(self.plan, len(self.data) + len(self._members))
        self._ear = _Ear(self.plan.max_grad_norm, self._places, self._noise)
        self._noise = self._ear

    @property
    def heard(self) -> Float64[np.ndarray, " M"]:
        """What the last step released of each canary: s."""
        return self._ear.heard.numpy()

    def norm_of(self, example: int) -> float:
        """Norm of what one example adds to the sum of clipped gradients."""
        coins = Randomness(None).step(0)
        part = super()._clipped_sum(torch.tensor([example]), coins)
        return float(torch.cat([g.flatten().double() for g in part.gradients]).norm())

    def _clipped_sum(self, examples: Int64[Tensor, " E"], coins: StepRandomness) -> ClippedSum:
        own, canaries = (
            examples[examples < len(self.data)],
            examples[examples >= len(self.data)] - len(self.data),
        )
        if len(own):
            part = super()._clipped_sum(own, coins)
        else:
            empty = torch.zeros(0)
            part = ClippedSum(zero_sum(self.parameters), empty, empty, engine=self.way.engine)
        drawn = self._members[canaries]
        _add_at(part.gradients, self._places[drawn], self.plan.max_grad_norm)
        self._ear.drawn[drawn] += 1
        return part


class _Ear(GaussianNoise):
    """The noise, which notes what it releases at the canaries' places."""

    def __init__(self, unit: float, places: Int64[Tensor, " M"], noise: GaussianNoise) -> None:
        self._unit, self._places, self._inner = unit, places, noise
        self.std, self.denominator = noise.std, noise.denominator
        self.drawn = torch.zeros(len(places), dtype=torch.float64)
        self.heard = torch.zeros(len(places), dtype=torch.float64)

    def release(self, clipped_sum: list[Tensor], rng: Stream) -> list[Tensor]:
        """As the noise that it listens to."""
        released = self._inner.release(clipped_sum, rng)
        others = _at(clipped_sum, self._places) - self._unit * self.drawn
        self.heard = (_at(released, self._places) * self.denominator - others) / self._unit
        self.drawn.zero_()
        return released


def _at(tensors: list[Tensor], places: Int64[Tensor, " M"]) -> Float64[Tensor, " M"]:
    flat = torch.cat([tensor.detach().flatten().cpu() for tensor in tensors])
    return flat.double()[places]


def _add_at(tensors: list[Tensor], places: Int64[Tensor, " D"], amount: float) -> None:
    """Add `amount` at the places, in the tensors themselves."""
    start = 0
    for tensor in tensors:
        mine = places[(places >= start) & (places < start + tensor.numel())] - start
        if len(mine):
            tensor.view(-1)[mine.to(tensor.device)] += amount
        start += tensor.numel()
