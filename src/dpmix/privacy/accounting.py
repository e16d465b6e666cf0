"""Epsilon of T Poisson-subsampled Gaussian releases; all accounting is done by dp-accounting.

The neighbouring relation is add-or-remove-one throughout. `sigma` is the noise's standard deviation
divided by the sensitivity, so a method with sensitivity 2C needs noise 2 * sigma * C.
`prior_releases` are the sigmas of other Gaussian releases of the same data, each made once without
subsampling; they compose with the T steps.
"""

import math
from functools import cache, lru_cache, reduce

import dp_accounting
from dp_accounting import DpEvent, NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq

from dpmix.errors import DpmixError

# Integer orders have a closed form; fractional ones need a series that may not converge.
RDP_ORDERS = (*range(2, 64), *range(64, 256, 8), 256, 512, 1024)

# The search for sigma stops within this fraction of it.
SIGMA_TOLERANCE = 2e-4

# Privacy losses are rounded up to a grid: a coarse one also bounds epsilon from above and is ten
# times faster. At a fortieth of one step's own loss, whose standard deviation is at least
# q / sigma, it adds at most about one part in 10,000 to epsilon.
FINEST_GRID, _COARSEST_GRID, _PART_OF_LOSS = 1e-4, 1e-3, 0.025

# The accountant's range. Less noise is only enough where delta nearly allows the release of a whole
# example, and the cost of accounting grows with 1 / sigma^2.
MIN_SIGMA, MAX_SIGMA = 0.1, 1e6

# The accountant cuts tails of mass 1e-15 and composes in float64: at a delta of 3e-10 and less,
# some of its epsilons lay below the exact ones, by up to 2e-3 of themselves.
MIN_DELTA = 1e-9

PriorReleases = tuple[float, ...]
Training = tuple[float, float, int]  # sampling rate, sigma, steps


@cache
def epsilon_pld(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    prior_releases: PriorReleases = (),
) -> float:
    """Epsilon at `delta` by privacy loss distributions (PLD): an upper bound."""
    return epsilon_together(((sampling_rate, sigma, steps),), delta, prior_releases)


def epsilon_together(
    trainings: tuple[Training, ...],
    delta: float,
    prior_releases: PriorReleases = (),
) -> float:
    """Epsilon at `delta` (PLD) of several trainings on the same data, if all are released.

    Raises:
        DpmixError: as of `losses_together`.
    """
    if any(steps and sigma == 0 for _, sigma, steps in trainings):
        return math.inf
    return epsilon_composed(losses_together(trainings, prior_releases), delta)


def losses_together(
    trainings: tuple[Training, ...], prior_releases: PriorReleases = ()
) -> list[PrivacyLossDistribution]:
    """The privacy losses of several trainings and of the prior releases, all on one grid.

    Raises:
        DpmixError: a sigma is below `MIN_SIGMA`, so that its losses would fill the memory.
    """
    sigmas = (*(sigma for _, sigma, steps in trainings if steps), *prior_releases)
    if min(sigmas, default=math.inf) < MIN_SIGMA:
        raise DpmixError(
            f"sigma {min(sigmas):g} is less noise than the accountant can count; give "
            f"{MIN_SIGMA:g} or more, below which a guarantee is empty"
        )
    releases = [one for one in trainings if one[2]] + [(1.0, other, 1) for other in prior_releases]
    narrowest = min((rate / sigma for rate, sigma, _ in releases), default=0.0)
    grid = max(FINEST_GRID, min(_COARSEST_GRID, _PART_OF_LOSS * narrowest))
    return [
        gaussian_loss(rate, sigma, grid).self_compose(int(steps)) for rate, sigma, steps in releases
    ]


def epsilon_composed(losses: list[PrivacyLossDistribution], delta: float) -> float:
    """Epsilon at `delta` of releases with these privacy losses, all on one grid."""
    return float(composed(losses).get_epsilon_for_delta(delta)) if losses else 0.0


def composed(losses: list[PrivacyLossDistribution]) -> PrivacyLossDistribution:
    """The privacy loss of one or more releases together, all on one grid."""
    return reduce(lambda one, other: one.compose(other), losses)


# A run asks for its epsilon after many numbers of steps; their common step is what takes time.
@lru_cache(maxsize=8)
def gaussian_loss(sampling_rate: float, sigma: float, loss_grid: float) -> PrivacyLossDistribution:
    """The privacy loss of one release, rounded up to multiples of `loss_grid`."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        sigma,
        sampling_prob=sampling_rate,
        value_discretization_interval=loss_grid,
        neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


def epsilon_rdp(
    sampling_rate: float, sigma: float, steps: int, delta: float, prior_releases: PriorReleases = ()
) -> float:
    """Epsilon at `delta` by Renyi DP: looser than PLD, and shown next to it."""
    if steps == 0 and not prior_releases:
        return 0.0
    if sigma == 0:
        return math.inf
    training = [training_event(sampling_rate, sigma, steps)] if steps else []
    return epsilon_of_events(training, delta, prior_releases)


def training_event(sampling_rate: float, sigma: float, steps: int) -> DpEvent:
    """T Poisson-subsampled Gaussian releases, in dp-accounting's terms."""
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, int(steps))


def epsilon_of_events(events: list[DpEvent], delta: float, prior_releases: PriorReleases) -> float:
    """Epsilon at `delta` of events and prior releases together, by Renyi DP."""
    others = [dp_accounting.GaussianDpEvent(other) for other in prior_releases]
    accountant = RdpAccountant(RDP_ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.ComposedDpEvent([*events, *others]))
    return float(accountant.get_epsilon(delta))


def epsilon_gaussian(sigma: float, delta: float) -> float:
    """Epsilon at `delta` of one Gaussian release without subsampling (PLD)."""
    return epsilon_pld(1.0, math.inf, 0, delta, (sigma,))


@cache
def calibrate_sigma(
    sampling_rate: float,
    steps: int,
    epsilon: float,
    delta: float,
    prior_releases: PriorReleases = (),
) -> float:
    """The smallest sigma whose PLD epsilon, with `prior_releases`, is at most `epsilon`.

    It is accurate to a relative 5e-4. At an epsilon of a few hundredths, where a step's loss is
    narrow compared with the accountant's grid, it is accurate to about 1 %.

    Renyi DP comes first: its sigma is cheap and an upper end for the search, which so never has to
    account for very little noise.

    Raises:
        DpmixError: no sigma up to 1e6 reaches `epsilon`, less than `MIN_SIGMA` reaches it, or the
            prior releases alone exceed it.
    """
    before = epsilon_rdp(1.0, math.inf, 0, delta, prior_releases)
    if before >= epsilon:
        raise DpmixError(
            f"the prior releases of these data cost epsilon {before:.3f} at delta {delta:g}, which "
            f"leaves nothing of epsilon {epsilon:g}; give a larger epsilon"
        )
    high = _sigma_by_rdp(sampling_rate, steps, epsilon, delta, prior_releases)
    drawn_at_all = 1 - (1 - sampling_rate) ** steps
    refuse_nearly_no_noise(0.0 if delta >= drawn_at_all else high, epsilon, delta)

    def excess(sigma: float) -> float:
        return epsilon_pld(sampling_rate, sigma, steps, delta, prior_releases) - epsilon

    low = max(MIN_SIGMA, high * 0.8)
    while excess(low) <= 0:
        refuse_nearly_no_noise(0.0 if low == MIN_SIGMA else low, epsilon, delta)
        high, low = low, max(MIN_SIGMA, low * 0.8)
    while excess(high) > 0:
        low, high = high, high * 1.1
    tolerance = SIGMA_TOLERANCE * low
    sigma = float(brentq(excess, low, high, xtol=tolerance))
    while excess(sigma) > 0:
        sigma += tolerance
    return sigma


def refuse_nearly_no_noise(sigma: float, epsilon: float, delta: float) -> None:
    """Refuse a sigma below `MIN_SIGMA`, whose guarantee is empty."""
    if sigma < MIN_SIGMA:
        raise DpmixError(
            f"epsilon {epsilon:g} at delta {delta:g} needs almost no noise (sigma under "
            f"{MIN_SIGMA:g}): such a guarantee is empty; give a smaller epsilon or delta"
        )


def _sigma_by_rdp(
    sampling_rate: float, steps: int, epsilon: float, delta: float, prior_releases: PriorReleases
) -> float:
    def too_small(sigma: float) -> bool:
        return epsilon_rdp(sampling_rate, sigma, steps, delta, prior_releases) > epsilon

    low, high = 0.0, 1.0
    while too_small(high):
        low, high = high, high * 2
        if high > MAX_SIGMA:
            raise DpmixError(
                f"epsilon {epsilon:g} at delta {delta:g} is out of reach in {steps} steps at "
                f"sampling rate {sampling_rate:g}; give a larger epsilon or delta, or fewer steps"
            )
    while high - low > 0.1 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if too_small(middle) else (low, middle)
    return high
