"""Choosing the best of a random number of runs, and what that costs.

Theorem 2 of Papernot & Steinke 2022 (arXiv 2110.03620): run a mechanism K times, K drawn from a
logarithmic distribution and kept secret, and publish the best output alone. That costs little more
than one run and, unlike k runs that are all published or chosen from, does not grow with k. The
mechanism here is: draw one of the candidates' settings at random, train with them. It has the
privacy of a run wherever all candidates have one plan.
"""

import math

import dp_accounting
from dp_accounting import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import logser

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import (
    MAX_SIGMA,
    RDP_ORDERS,
    SIGMA_TOLERANCE,
    Spent,
    epsilon_pld,
    epsilon_rdp,
    refuse_nearly_no_noise,
    refuse_tiny_delta,
)

LOGARITHMIC = 0.0  # the shape of the number's distribution: least epsilon for 5 runs and more


MOST_RUNS = 10_000.0


_NO_CHANCE = 1e-20


_NEARLY_ONE = 1e-6


def epsilon_selected(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    expected_runs: float,
    spent: Spent = (),
) -> float:
    """Epsilon at `delta` of the best of a random number of runs, by Renyi DP.

    Args:
        sampling_rate: q of every run.
        sigma: noise multiplier of every run.
        steps: T of every run.
        delta: of the guarantee.
        expected_runs: mean of their number, which `number_of_runs` draws.
        spent: as in `accounting`; made once, and not by every run.
    """
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian)
    run = dp_accounting.SelfComposedDpEvent(sampled, int(steps))
    best = dp_accounting.dp_event.RepeatAndSelectDpEvent(run, expected_runs, LOGARITHMIC)
    others = [dp_accounting.GaussianDpEvent(other) for other in spent]
    accountant = RdpAccountant(RDP_ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.ComposedDpEvent([best, *others]))
    return float(accountant.get_epsilon(delta))


def epsilon_stated(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    expected_runs: float | None,
    spent: Spent = (),
) -> float:
    """Epsilon at `delta` as a run states it: by PLD, or the best run's of a selection, by RDP."""
    if expected_runs is None:
        return epsilon_pld(sampling_rate, sigma, steps, delta, spent)
    if steps == 0 or sigma == 0:
        return epsilon_rdp(sampling_rate, sigma, steps, delta, spent)
    return epsilon_selected(sampling_rate, sigma, steps, delta, expected_runs, spent)


def calibrate_selected(
    sampling_rate: float,
    steps: int,
    epsilon: float,
    delta: float,
    expected_runs: float,
    spent: Spent = (),
) -> float:
    """The least sigma, to a relative 2e-4, for which the best of all runs is (epsilon, delta)-DP.

    Raises:
        DpmixError: as `accounting.calibrate_sigma` raises.
    """
    refuse_tiny_delta(delta)

    def excess(sigma: float) -> float:
        return epsilon_selected(sampling_rate, sigma, steps, delta, expected_runs, spent) - epsilon

    high = 1.0
    while excess(high) > 0:
        high *= 2
        if high > MAX_SIGMA:
            raise DpmixError(
                f"epsilon {epsilon:g} at delta {delta:g} is out of reach for the best of "
                f"{expected_runs:g} runs of {steps} steps; give a larger epsilon or delta, or "
                "fewer runs or steps"
            )
    low = high / 2
    while excess(low) <= 0:
        high, low = low, low / 2
        refuse_nearly_no_noise(low, epsilon, delta)
    tolerance = SIGMA_TOLERANCE * low
    sigma = float(brentq(excess, low, high, xtol=tolerance / 2))
    while excess(sigma) > 0:
        sigma += tolerance / 2
    return sigma


def number_of_runs(expected_runs: float, uniform: float) -> int:
    """How many runs: a number of the logarithmic distribution with that mean, at least 1.

    Args:
        expected_runs: its mean.
        uniform: a uniform number in [0, 1) from a secret source.
    """
    if expected_runs < 1 + _NEARLY_ONE:
        return 1
    p = float(brentq(lambda p: logser.mean(p) - expected_runs, 1e-9, 1 - 1e-9))
    # By hand: the library's own inverse does not end for some p.
    runs, chance = 1, -p / math.log1p(-p)
    passed = chance
    while uniform >= passed and chance > _NO_CHANCE:
        chance *= p * runs / (runs + 1)
        runs += 1
        passed += chance
    return runs


def check_expected_runs(expected_runs: float) -> None:
    """Check the mean.

    Raises:
        DpmixError: it is not in 1..10,000.
    """
    if not 1 <= expected_runs <= MOST_RUNS:
        raise DpmixError(f"expected_runs is {expected_runs:g}; expected 1 to {MOST_RUNS:g}")
