"""The best of a random number of runs, and what publishing it costs.

Theorem 2 of Papernot & Steinke 2022 (arXiv 2110.03620): run a mechanism K times, with K drawn from
a logarithmic distribution and kept secret, and publish the best output alone. That costs little
more than one run and, unlike the best of a fixed number k of runs, does not grow with k. The
mechanism here is: draw one candidate's settings at random, and train with them. It has the privacy
of one run if all candidates have the same plan.
"""

import math

from dp_accounting.dp_event import RepeatAndSelectDpEvent
from scipy.optimize import brentq
from scipy.stats import logser

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import (
    MAX_SIGMA,
    SIGMA_TOLERANCE,
    PriorReleases,
    epsilon_of_events,
    epsilon_pld,
    epsilon_rdp,
    refuse_nearly_no_noise,
    training_event,
)

# The shape 0 of the theorem's family of distributions: it costs least for 5 runs and more.
_LOGARITHMIC = 0.0
_MOST_RUNS = 10_000.0


def epsilon_selected(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    expected_runs: float,
    prior_releases: PriorReleases = (),
) -> float:
    """Epsilon at `delta` of publishing the best of `expected_runs` runs on average, by Renyi DP.

    All runs have the same q, sigma and T. The prior releases were made once, not by every run.
    """
    run = training_event(sampling_rate, sigma, steps)
    best = RepeatAndSelectDpEvent(run, expected_runs, _LOGARITHMIC)
    return epsilon_of_events([best], delta, prior_releases)


def epsilon_stated(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    expected_runs: float | None,
    prior_releases: PriorReleases = (),
) -> float:
    """Epsilon at `delta` that a run states: of itself by PLD, or of a selection by RDP."""
    if expected_runs is None:
        return epsilon_pld(sampling_rate, sigma, steps, delta, prior_releases)
    if steps == 0 or sigma == 0:
        return epsilon_rdp(sampling_rate, sigma, steps, delta, prior_releases)
    return epsilon_selected(sampling_rate, sigma, steps, delta, expected_runs, prior_releases)


def calibrate_selected(
    sampling_rate: float,
    steps: int,
    epsilon: float,
    delta: float,
    expected_runs: float,
    prior_releases: PriorReleases = (),
) -> float:
    """The least sigma, to a relative 2e-4, that makes the best of all runs (epsilon, delta)-DP.

    Raises:
        DpmixError: no sigma up to 1e6 reaches `epsilon`, or less than `MIN_SIGMA` reaches it.
    """

    def excess(sigma: float) -> float:
        given = (sampling_rate, sigma, steps, delta, expected_runs, prior_releases)
        return epsilon_selected(*given) - epsilon

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
    """The number of runs, logarithmic with mean `expected_runs`, at `uniform` in [0, 1)."""
    if expected_runs < 1 + 1e-6:
        return 1
    p = float(brentq(lambda p: logser.mean(p) - expected_runs, 1e-9, 1 - 1e-9))
    # Not by scipy's inverse, which does not end for some p.
    runs, chance = 1, -p / math.log1p(-p)
    passed = chance
    while uniform >= passed and chance > 1e-20:
        chance *= p * runs / (runs + 1)
        runs += 1
        passed += chance
    return runs


def check_expected_runs(expected_runs: float) -> None:
    """Refuse a mean number of runs outside 1..10,000."""
    if not 1 <= expected_runs <= _MOST_RUNS:
        raise DpmixError(f"expected_runs is {expected_runs:g}; expected 1 to {_MOST_RUNS:g}")
