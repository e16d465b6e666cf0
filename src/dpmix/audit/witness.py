"""All invariants of one run, tested while it runs."""

import math

import numpy as np
import torch

from dpmix.audit.canaries import CanaryTrainer
from dpmix.audit.example_checks import ExampleChecks
from dpmix.audit.invariants import Invariant, exactly
from dpmix.audit.noise_checks import NoiseChecks
from dpmix.audit.release_checks import DrawChecks, ReleaseChecks
from dpmix.clipping.accumulator import sum_dtype
from dpmix.errors import DpmixError, to_install
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.prv import epsilon_prv


class Witness:
    """Hears every step of a trainer.

    Args:
        trainer: with its canaries planted, before its first step.
        rng: of what is looked at.
    """

    def __init__(self, trainer: CanaryTrainer, rng: np.random.Generator) -> None:
        self._trainer, plan = trainer, trainer.plan
        sizes = [parameter.numel() for parameter in trainer.parameters]
        rounding = torch.finfo(sum_dtype(trainer.device)).eps
        self._noise = NoiseChecks(plan, sizes, rounding, rng)
        self._draws = DrawChecks(trainer.data.labels.numpy(), trainer.members, plan.sampling_rate)
        self._releases = ReleaseChecks(trainer)
        self._examples = ExampleChecks(trainer, rng)
        self._examples.clip(compare=True)

    def hear(self) -> None:
        """Take the step that was just done."""
        ear = self._trainer.ear
        used = torch.cat([torch.empty(0).long(), *ear.examples])
        self._noise.hear(ear.noise.numpy(), ear.given.numpy())
        self._draws.hear(used.numpy())
        self._releases.hear()
        self._examples.hear(used)

    def found(self) -> tuple[Invariant, ...]:
        """All invariants, once all steps are done."""
        self._examples.clip(compare=False)
        return (
            self._noise.size(),
            self._noise.independence(),
            self._draws.found(),
            self._examples.clipping(),
            self._examples.views(),
            *self._releases.found(),
            steps_are_counted(self._trainer),
            epsilon_is_stated(self._trainer.plan),
        )


def steps_are_counted(trainer: CanaryTrainer) -> Invariant:
    """Whether a trainer whose steps are all done refuses another one."""
    try:
        trainer.step()
        refused = False
    except DpmixError:
        refused = True
    found = f"{trainer.plan.steps} steps, and another one was refused"
    return exactly("number of steps", found, {"a step beyond the plan's was taken": not refused})


def epsilon_is_stated(plan: PrivacyPlan) -> Invariant:
    """Whether the claim is no lower than by an accountant that shares no code with the plan's."""
    name = "claimed epsilon"
    steps = (plan.sampling_rate, plan.noise_multiplier, plan.steps, plan.delta)
    found = epsilon_prv(*steps, plan.prior_releases)
    if found is None:
        left_out = f"left out: prv-accountant is missing; {to_install('verify')}"
        return Invariant(name, True, left_out, tested=False)
    low, _, _ = found
    shown = math.floor(1000 * low) / 1000
    return Invariant(name, plan.epsilon >= low, f"another accountant gives {shown:.3f} or more")
