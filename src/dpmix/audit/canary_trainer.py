"""A trainer with canaries in gradient space: vectors of norm C that a release would betray.

Canary i stands for an example whose clipped gradient is C times the unit vector of a parameter that
no other canary has, in every step. It is drawn like any example, with the plan's q, and its C is
added to the sum, before the noise. A guesser who knows all other gradients of a step, which the
threat model allows, looks at what the optimizer steps on and is left with s ~ N(0, sigma^2), or
N(1, sigma^2) where the canary was drawn, in units of C. Such "Dirac" canaries are the strongest:
Nasr et al. 2023 (arXiv 2302.07956).
"""

import warnings

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from dpmix.audit.ear import Ear, flat
from dpmix.errors import DpmixError
from dpmix.models import train_mode
from dpmix.privacy.clipping import ClippedSum, Loss, zero_sum
from dpmix.privacy.randomness import Randomness, StepRandomness
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.step import PrivateTrainer
from dpmix.training.step_diagnostics import StepDiagnostics
from dpmix.views.view_source import ViewSource


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
        own_views, own_loss = self.views, self.loss
        self._views = views
        if loudness != 1:
            self.loss = self._louder.setdefault(loudness, _times(loudness, own_loss))
        try:
            train_mode(self.model, self._frozen)
            with warnings.catch_warnings():
                # An infinite loss passes no probe, so another engine takes the sum.
                warnings.filterwarnings("ignore", message="engine .* is not used")
                return super()._clipped_sum(examples, Randomness(None).step(0))
        finally:
            self._views, self.loss = own_views, own_loss

    def _clipped_sum(self, examples: Int64[Tensor, " E"], coins: StepRandomness) -> ClippedSum:
        own = examples[examples < len(self.data)]
        if len(own):
            part = super()._clipped_sum(own, coins)
        else:
            empty = torch.zeros(0)
            part = ClippedSum(zero_sum(self.parameters), empty, empty, engine=self.way.engine)
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
