"""What any test of membership can find: the trade-off curve of a run.

A test looks at a release, knows the data sets D and D' = D with x added, and says whether x was in.
Its false-positive rate (FPR) is how often it says so where x was not, its true-positive rate (TPR)
how often where x was.

Guarantee: no test has a higher TPR at an FPR than `TradeOff.most_found`, nor a higher TPR with the
roles of D and D' exchanged: the worse of the two directions counts
(`tests/privacy/test_tradeoff.py`).

Let S be the releases at which a test says yes. P[D' in S] <= e^e P[D in S] + delta(e) for every
real e, where delta(e) is the hockey-stick divergence at e. So every e gives a line that no pair
(FPR, TPR) lies above:

    TPR <= e^e FPR + delta(e)

A negative e is the bound on the other error: put the complement of S into the inequality with D and
D' exchanged, 1 - FPR <= e^a (1 - TPR) + delta(a), and solve for the TPR. That is the line at e = -a
with delta(-a) = 1 - e^-a (1 - delta(a)). The minimum over all e is the trade-off function itself
(Kairouz, Oh, Viswanath 2015, arXiv 1311.0776; Dong, Roth, Su 2022, arXiv 1905.02383). Over some e
it is larger, and so is it with a larger delta(e), as the accountant's is. The privacy losses of the
subsampled Gaussian, which it composes, dominate at every real e, and so do compositions (Zhu, Dong,
Wang 2022, arXiv 2106.08567).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float64
from scipy.special import ndtr, ndtri

from dpmix.privacy.accounting import PriorReleases, composed, losses_together
from dpmix.privacy.selection import epsilon_stated

# Lines, from -log(1 / FPR) to log(1 / FPR) of the least FPR: a steeper one is above 1 there.
_LINES, _LEAST_FPR = 4001, 1e-4
# Gomez et al. 2025 (arXiv 2503.10945) report mu where its curve is off by less than this.
LARGEST_GAP = 0.01
_LARGEST = 700.0  # e to a larger power overflows a float

Points = Float64[np.ndarray, " points"]


@dataclass(frozen=True)
class Gaussian:
    """A Gaussian mechanism that is no more private than a run, up to a tail.

    Attributes:
        mu: the difference of its two means over the standard deviation.
        gap: how far its curve lies above the run's: the least k such that it finds no more than
            the run's curve at k more FPR, plus k. It is measured on a grid.
    """

    mu: float
    gap: float


@dataclass(frozen=True)
class TradeOff:
    """The lines that bound the TPR, by their e in ascending order; one of them is e = 0.

    Attributes:
        epsilons: e of each line, whose slope is e^e.
        deltas: its TPR at FPR 0.
    """

    epsilons: Float64[np.ndarray, " lines"]
    deltas: Float64[np.ndarray, " lines"]

    def most_found(self, fpr: Points) -> Points:
        """The highest TPR of any test with an FPR of at most `fpr`: an upper bound."""
        found = np.ones_like(fpr)
        for epsilon, delta in zip(self.epsilons, self.deltas, strict=True):
            np.minimum(found, math.exp(epsilon) * fpr + delta, out=found)
        return found

    def most_found_at(self, fpr: float) -> float:
        """`most_found` at a single FPR."""
        return float(self.most_found(np.array([fpr]))[0])

    @property
    def best_guess(self) -> float:
        """The largest share of right guesses whether x was in, at even odds.

        It is (1 + TPR - FPR) / 2 of the best test, and TPR - FPR is at most delta(0).
        """
        return (1 + float(self.deltas[np.searchsorted(self.epsilons, 0.0)])) / 2

    def gaussian(self, tail: float) -> Gaussian | None:
        """The nearest Gaussian mechanism; None where it is further off than `LARGEST_GAP`.

        mu is the least whose curve G lies above this one wherever FPR and 1 - TPR are at least
        `tail`. Then TPR <= G(FPR + tail) + tail everywhere: below that range by G(tail), above it
        because G is over 1 - tail. G is concave and this curve straight between its corners, so to
        compare them there is enough.
        """
        slopes = np.exp(self.epsilons)
        corners = -np.diff(self.deltas) / np.diff(slopes)
        last = float(np.max((1 - tail - self.deltas) / slopes))
        if last <= tail:
            return None
        inside = corners[(corners > tail) & (corners < last)]
        fpr = np.array([tail, *inside[::-1], last])
        mu = max(0.0, float(np.max(ndtri(self.most_found(fpr)) - ndtri(fpr))))
        gap = self._gap(mu)
        return Gaussian(mu, gap) if gap < LARGEST_GAP else None

    def _gap(self, mu: float) -> float:
        # Along (1, -1), in which the gap is measured, FPR + TPR is constant.
        fpr = ndtr(np.linspace(-8, 8, 4001))
        own, other = self.most_found(fpr), ndtr(mu + ndtri(fpr))
        here = np.interp(fpr + other, fpr + own, own)
        return max(0.0, float(np.max(other - here)))


def tradeoff_of_epsilon(epsilon: float, delta: float) -> TradeOff:
    """What (epsilon, delta) alone gives, where there are no privacy losses."""
    grown = math.exp(min(epsilon, _LARGEST))
    # The middle line goes through the corner of the two others.
    deltas = [1 - (1 - delta) / grown, 1 - 2 * (1 - delta) / (1 + grown), delta]
    steepest = math.log(grown)
    epsilons, first = np.unique([-steepest, 0.0, steepest], return_index=True)
    return TradeOff(epsilons, np.array(deltas)[first])


@lru_cache(maxsize=16)
def tradeoff_stated(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    expected_runs: float | None,
    prior_releases: PriorReleases = (),
) -> TradeOff:
    """The trade-off curve of a run with its prior releases, by PLD.

    PLD has no theorem for the best run of a private selection: then it is what epsilon, by Renyi
    DP, and delta allow.

    Raises:
        DpmixError: as of `losses_together`.
    """
    if expected_runs is not None or sigma == 0:
        given = (sampling_rate, sigma, steps, delta, expected_runs, prior_releases)
        return tradeoff_of_epsilon(epsilon_stated(*given), delta)
    losses = losses_together(((sampling_rate, sigma, steps),), prior_releases)
    if not losses:
        return tradeoff_of_epsilon(0.0, 0.0)
    steepest = -math.log(min(delta, _LEAST_FPR))
    epsilons = np.linspace(-steepest, steepest, _LINES)
    deltas = np.asarray(composed(losses).get_delta_for_epsilon(epsilons))
    # Sums of 16 digits may end just outside of what a probability is.
    return TradeOff(epsilons, deltas.clip(0.0, 1.0))
