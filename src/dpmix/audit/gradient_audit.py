"""Audit of a run's mechanism by canaries in gradient space: two lower bounds on its epsilon."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from dpmix.audit.bounds import best_one_run_epsilon, best_two_world_epsilon
from dpmix.audit.canary_trainer import CanaryTrainer
from dpmix.audit.invariants import Invariant
from dpmix.audit.witness import Witness
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan


@dataclass(frozen=True)
class GradientAudit:
    """What an audit found.

    Attributes:
        claimed: epsilon of the plan at `delta`.
        delta: of the plan.
        one_run: lower bound that assumes nothing of the mechanism.
        two_worlds: lower bound that takes the canaries' noise for independent.
        confidence: of both bounds together.
        canaries: guessed at, over all runs.
        runs: trained.
        invariants: tested in the first of them.
    """

    claimed: float
    delta: float
    one_run: float
    two_worlds: float
    confidence: float
    canaries: int
    runs: int
    invariants: tuple[Invariant, ...]

    @property
    def lower_bound(self) -> float:
        """The larger of the two bounds."""
        return max(self.one_run, self.two_worlds)

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, at the confidence, or an invariant does not hold."""
        return self.lower_bound > self.claimed or not all(one.holds for one in self.invariants)


def audit_gradients(
    trainer: Callable[[], CanaryTrainer],
    *,
    canaries: int,
    runs: int,
    confidence: float,
    rng: np.random.Generator,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> GradientAudit:
    """Train `runs` times with canaries planted, guess which were in, and bound epsilon.

    Args:
        trainer: makes a fresh one, of one and the same plan.
        canaries: M of a run, at most one for each trained parameter.
        runs: of the whole training; each adds M canaries.
        confidence: of each bound.
        rng: of the coins that include canaries and of their places.
        report: told (steps done, steps in all).

    Raises:
        DpmixError: more canaries than parameters, or as `CanaryTrainer.plant` raises.
    """
    scores: list[Float64[np.ndarray, " M"]] = []
    coins: list[Bool[np.ndarray, " M"]] = []
    found: tuple[Invariant, ...] = ()
    for run in range(runs):
        subject = trainer()
        parameters = sum(p.numel() for p in subject.parameters)
        if canaries > parameters:
            raise DpmixError(
                f"{canaries:,} canaries were asked for but the model has {parameters:,} trained "
                "parameters, one for each; give fewer canaries"
            )
        included = rng.random(canaries) < 0.5
        subject.plant(included, rng.permutation(parameters)[:canaries])
        # A stream that is its own, so that looking does not move the canaries.
        witness = Witness(subject, rng.spawn(1)[0]) if run == 0 else None
        score = np.zeros(canaries)
        for step in range(subject.plan.steps):
            subject.step()
            if witness:
                witness.hear()
            score += log_likelihood_ratio(subject.heard, subject.plan)
            report(run * subject.plan.steps + step + 1, runs * subject.plan.steps)
        if witness:
            found = witness.found()
        scores.append(score)
        coins.append(included)
    each = 1 - (1 - confidence) / 2  # both hold together, at the confidence
    plan, score, included = subject.plan, np.concatenate(scores), np.concatenate(coins)
    return GradientAudit(
        claimed=plan.epsilon,
        delta=plan.delta,
        one_run=best_one_run_epsilon(score, included, plan.delta, each),
        two_worlds=best_two_world_epsilon(score[~included], score[included], plan.delta, each),
        confidence=confidence,
        canaries=len(score),
        runs=runs,
        invariants=found,
    )


def log_likelihood_ratio(
    heard: Float64[np.ndarray, " M"], plan: PrivacyPlan
) -> Float64[np.ndarray, " M"]:
    """Of "in" against "out", given what one step released: the best statistic there is."""
    q, sigma = plan.sampling_rate, plan.noise_multiplier
    shift = (2 * heard - 1) / (2 * sigma**2)
    if q == 1:
        return shift
    ratio: Float64[np.ndarray, " M"] = np.logaddexp(math.log1p(-q), math.log(q) + shift)
    return ratio
