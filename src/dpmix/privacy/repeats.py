"""Epsilon of a person whose image occurs several times among the training images.

Sensitivity: each of m equal images is drawn with probability q, independently of the others. A step
therefore draws k ~ Binomial(m, q) of them, and they move the sum of clipped gradients by at most k
times the plan's sensitivity. This is a mixture-of-Gaussians mechanism, dominated by the scalar one
with these norms (Choquette-Choo, Ganesh, Steinke, Thakurta 2023, arXiv 2310.15526, Corollary 4.7;
for examples of one user: Charles et al. 2024, arXiv 2407.07737), whose privacy loss dp-accounting
computes. A prior release without sampling moves by m (`tests/privacy/test_repeats.py`).
"""

import math
from functools import lru_cache

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import (
    PrivacyLossDistribution,
    from_mixture_gaussian_mechanism,
)
from jaxtyping import Float64
from scipy.stats import binom

from dpmix.privacy.accounting import (
    FINEST_GRID,
    PriorReleases,
    Training,
    epsilon_composed,
    epsilon_together,
    gaussian_loss,
)
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.selection import epsilon_selected

# A mixture's loss is computed point by point, each a sum over the numbers of copies. This many
# terms, plus a hundred for each point, take a few seconds.
_MOST_TERMS = 2_000_000
# Less likely numbers of copies count as the next higher one, or as the highest: far below the tails
# that the accountant itself cuts.
_UNLIKELY = 1e-22
# Next to 1, the library cannot distinguish from 0 a smaller chance that no copy is drawn.
_NONE_DRAWN, _ROUNDING = 1e-9, 1e-13
_PART_OF_LOSS = 0.05  # the grid of losses, as a part of their least spread
_ALL = 1e-12  # a rate that near to 1 counts as 1, at which the loss is largest
_LARGEST = 700.0  # e to a larger power overflows a float


def epsilon_of_copies(plan: PrivacyPlan, copies: int, steps: int) -> float:
    """Epsilon at the plan's delta, after `steps` steps, of the person in `copies` equal images.

    It is computed by PLD; for a private selection by Renyi DP and group privacy, which is looser.
    """
    if copies == 1:
        return plan.epsilon_after(steps)
    if plan.expected_runs is not None and steps:
        return _by_group_privacy(plan, copies, steps)
    training = (plan.sampling_rate, plan.noise_multiplier, steps)
    return epsilon_of_copies_together((training,), copies, plan.delta, plan.prior_releases)


def epsilon_of_copies_together(
    trainings: tuple[Training, ...], copies: int, delta: float, prior_releases: PriorReleases = ()
) -> float:
    """Epsilon at `delta` of several trainings on the same data, if all are released (PLD)."""
    if copies == 1:
        return epsilon_together(trainings, delta, prior_releases)
    if any(steps and sigma == 0 for _, sigma, steps in trainings):
        return math.inf
    releases = [one for one in trainings if one[2]] + [(1.0, s, 1) for s in prior_releases]
    grid = _grid(releases, copies)
    losses = [
        _loss(rate, sigma, copies, grid).self_compose(int(steps)) for rate, sigma, steps in releases
    ]
    return epsilon_composed(losses, delta)


@lru_cache(maxsize=8)
def _loss(rate: float, sigma: float, copies: int, grid: float) -> PrivacyLossDistribution:
    """The privacy loss of one step that draws k ~ Binomial(copies, rate) equal images."""
    if rate > 1 - _ALL:
        return gaussian_loss(1.0, sigma / copies, grid)
    lowest, weights = _drawn(copies, rate)
    numbers = np.arange(lowest, lowest + len(weights), dtype=np.float64)
    return from_mixture_gaussian_mechanism(
        sigma, numbers, weights, value_discretization_interval=grid
    )


def _drawn(copies: int, rate: float) -> tuple[int, Float64[np.ndarray, " K"]]:
    """The smallest number of copies worth counting, and the chances of it and of higher ones.

    More copies mean more privacy loss, so lower numbers may be counted as the least one.
    """
    chances = binom.pmf(np.arange(copies + 1), copies, rate)
    likely = np.flatnonzero(chances > _UNLIKELY)
    lowest, highest = int(likely[0]), int(likely[-1])
    if chances[0] < _NONE_DRAWN:
        lowest = max(1, lowest)
    weights = chances[lowest : highest + 1].copy()
    weights[0] += chances[:lowest].sum()
    weights[-1] += chances[highest + 1 :].sum()
    weights /= weights.sum()
    return lowest, weights * (1 + _ROUNDING) if lowest else weights


def _grid(releases: list[Training], copies: int) -> float:
    """The grid that losses are rounded up to: fine for every release, but of few enough points."""
    spread, coarsest = math.inf, 0.0
    for rate, sigma, _ in releases:
        spread = min(spread, rate * copies / sigma)
        lowest, weights = _drawn(copies, rate)
        most = (lowest + len(weights) - 1) / sigma
        # The loss 10 standard deviations out, of a Gaussian moved by `most`.
        largest = most**2 / 2 + 10 * most
        coarsest = max(coarsest, largest * (len(weights) + 100) / _MOST_TERMS)
    return max(FINEST_GRID, min(_PART_OF_LOSS * spread, 1.0), coarsest)


def _by_group_privacy(plan: PrivacyPlan, copies: int, steps: int) -> float:
    """(e, d)-DP for one image is (m e, d (e^(m e) - 1) / (e^e - 1))-DP for m of them.

    This is Vadhan 2017 (The Complexity of Differential Privacy), Lemma 2.2. A larger m e needs a
    smaller d, which needs a larger e: the result is the first e that suffices for its own d.
    """
    e, runs = plan.epsilon_after(steps), plan.expected_runs or 1.0
    rate, sigma, prior = plan.sampling_rate, plan.noise_multiplier, plan.prior_releases
    while copies * e < _LARGEST:
        d = plan.delta * math.expm1(e) / math.expm1(copies * e)
        needed = epsilon_selected(rate, sigma, steps, d, runs, prior)
        if needed <= e:
            return copies * e
        e = needed * (1 + 1e-6)
    return math.inf
