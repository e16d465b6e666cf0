"""epsilon of T Poisson-subsampled Gaussian releases, by dp-accounting; nothing of it is our own.

The neighbouring relation is add-or-remove-one throughout. `sigma` is the noise's standard deviation
divided by the sensitivity, so a method with sensitivity 2C needs noise 2 * sigma * C. `spent` are
the sigmas of other Gaussian releases of the same data, each made once without subsampling; they
compose with the T steps.
"""

import math
from functools import cache, lru_cache, reduce

import dp_accounting
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq

from dpmix.errors import DpmixError

# Integer orders have a closed form; the fractional ones need a series that may not converge.
RDP_ORDERS = (*range(2, 64), *range(64, 256, 8), 256, 512, 1024)


# The search stops within this fraction of sigma: epsilon then lies well inside 0.5 % of its target.
SIGMA_TOLERANCE = 2e-4


# Privacy losses are rounded up to this grid. A coarser one bounds epsilon from above just as well
# and is many times as fast: the search uses one of a twentieth of a step's own loss, whose standard
# deviation is q / sigma or more, and so adds a few parts in 10,000 to epsilon.
LOSS_GRID, COARSEST_LOSS_GRID, PART_OF_LOSS = 1e-4, 1e-3, 0.05


# The accountant's range. Less noise is asked for only where delta is so large that it nearly allows
# an example's release in full; the cost of accounting grows with 1 / sigma^2.
MIN_SIGMA = 0.1


MAX_SIGMA = 1e6


# The accountant cuts tails of mass 1e-15, so it can't tell what holds at a delta near that.
MIN_DELTA = 1e-12


Spent = tuple[float, ...]


Training = tuple[float, float, int]


"""Sampling rate, sigma and steps."""


@cache
def epsilon_pld(
    sampling_rate: float,
    sigma: float,
    steps: int,
    delta: float,
    spent: Spent = (),
    *,
    loss_grid: float = LOSS_GRID,
) -> float:
    """Epsilon at `delta` by privacy loss distributions: an upper bound, whatever the grid."""
    return _epsilon(((sampling_rate, sigma, steps),), delta, spent, loss_grid)


def epsilon_together(trainings: tuple[Training, ...], delta: float, spent: Spent = ()) -> float:
    """Epsilon at `delta` of several trainings on the same data (PLD), for who sees all of them."""
    return _epsilon(trainings, delta, spent, LOSS_GRID)


def _epsilon(
    trainings: tuple[Training, ...], delta: float, spent: Spent, loss_grid: float
) -> float:
    if any(steps and sigma == 0 for _, sigma, steps in trainings):
        return math.inf
    least = min([*(sigma for _, sigma, steps in trainings if steps), *spent], default=math.inf)
    if least < MIN_SIGMA:  # its losses would fill the memory
        raise DpmixError(
            f"sigma {least:g} is less noise than the accountant can count; give {MIN_SIGMA:g} or "
            "more, below which a guarantee is empty"
        )
    losses = [
        *(gaussian_loss(rate, sigma, loss_grid).self_compose(int(steps))
          for rate, sigma, steps in trainings if steps),
        *(gaussian_loss(1.0, other, loss_grid) for other in spent),
    ]  # fmt: skip
    return epsilon_composed(losses, delta)


def epsilon_composed(losses: list[PrivacyLossDistribution], delta: float) -> float:
    """Epsilon at `delta` of releases with these privacy losses, all on one grid."""
    if not losses:
        return 0.0
    whole = reduce(lambda one, other: one.compose(other), losses)
    return float(whole.get_epsilon_for_delta(delta))


# A run asks for its epsilon at many steps; their one step is the costly part, and megabytes.
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
    sampling_rate: float, sigma: float, steps: int, delta: float, spent: Spent = ()
) -> float:
    """Epsilon at `delta` by Renyi DP: looser than PLD, shown beside it."""
    if steps == 0 and not spent:
        return 0.0
    if sigma == 0:
        return math.inf
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    sampled = dp_accounting.PoissonSampledDpEvent(sampling_rate, gaussian)
    training = [dp_accounting.SelfComposedDpEvent(sampled, int(steps))] if steps else []
    others = [dp_accounting.GaussianDpEvent(other) for other in spent]
    accountant = RdpAccountant(RDP_ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.ComposedDpEvent([*training, *others]))
    return float(accountant.get_epsilon(delta))


def epsilon_gaussian(sigma: float, delta: float) -> float:
    """Epsilon at `delta` of one Gaussian release without subsampling (PLD)."""
    return epsilon_pld(1.0, math.inf, 0, delta, (sigma,))


def calibrate_gaussian(epsilon: float, delta: float) -> float:
    """The smallest sigma, to a relative 2e-4, of one Gaussian release that is (epsilon, delta)-DP.

    Raises:
        DpmixError: as `calibrate_sigma` raises.
    """
    return calibrate_sigma(1.0, 1, epsilon, delta)


@cache
def calibrate_sigma(
    sampling_rate: float, steps: int, epsilon: float, delta: float, spent: Spent = ()
) -> float:
    """The smallest sigma, to a relative 5e-4, whose PLD epsilon is at most `epsilon`.

    To that where a step's loss is wide beside the accountant's grid; the last percent at an epsilon
    of a few hundredths.

    The whole is calibrated: T steps and what was `spent` before.

    RDP comes first: it is cheap, and its sigma is an upper end for the search, so that the costly
    accounting of little noise is never done.

    Raises:
        DpmixError: `delta` is below `MIN_DELTA`, no sigma up to 1e6 reaches `epsilon`, or less than
            `MIN_SIGMA` does, or what was spent leaves nothing.
    """
    refuse_tiny_delta(delta)
    _refuse_overspent(epsilon, delta, spent)
    high = _sigma_by_rdp(sampling_rate, steps, epsilon, delta, spent)
    drawn_at_all = 1 - (1 - sampling_rate) ** steps
    refuse_nearly_no_noise(0.0 if delta >= drawn_at_all else high, epsilon, delta)

    grid = max(LOSS_GRID, min(COARSEST_LOSS_GRID, PART_OF_LOSS * sampling_rate / high))

    def excess(sigma: float) -> float:
        return epsilon_pld(sampling_rate, sigma, steps, delta, spent, loss_grid=grid) - epsilon

    low = max(MIN_SIGMA, high * 0.8)
    while excess(low) <= 0:
        refuse_nearly_no_noise(0.0 if low == MIN_SIGMA else low, epsilon, delta)
        high, low = low, max(MIN_SIGMA, low * 0.8)
    while excess(high) > 0:
        low, high = high, high * 1.1
    tolerance = SIGMA_TOLERANCE * low
    sigma = float(brentq(excess, low, high, xtol=tolerance))
    while epsilon_pld(sampling_rate, sigma, steps, delta, spent) > epsilon:
        sigma += tolerance
    return sigma


def refuse_tiny_delta(delta: float) -> None:
    """Refuse a delta that the accountant can't tell from none.

    Raises:
        DpmixError: it is below `MIN_DELTA`.
    """
    if delta < MIN_DELTA:
        raise DpmixError(
            f"delta {delta:g} is below what the accountant resolves; give {MIN_DELTA:g} or more"
        )


def refuse_nearly_no_noise(sigma: float, epsilon: float, delta: float) -> None:
    """Refuse a sigma so small that its guarantee is empty.

    Raises:
        DpmixError: it is below `MIN_SIGMA`.
    """
    if sigma < MIN_SIGMA:
        raise DpmixError(
            f"epsilon {epsilon:g} at delta {delta:g} needs almost no noise (sigma under "
            f"{MIN_SIGMA:g}): such a guarantee is empty; give a smaller epsilon or delta"
        )


def _refuse_overspent(epsilon: float, delta: float, spent: Spent) -> None:
    # By Renyi DP, the search's own upper end: what it can't leave room for can't be calibrated.
    before = epsilon_rdp(1.0, math.inf, 0, delta, spent)
    if before >= epsilon:
        raise DpmixError(
            f"what was spent on these data before costs epsilon {before:.3f} at delta {delta:g}, "
            f"which leaves nothing of epsilon {epsilon:g}; give a larger epsilon"
        )


def _sigma_by_rdp(
    sampling_rate: float, steps: int, epsilon: float, delta: float, spent: Spent
) -> float:
    low, high = 0.0, 1.0
    while epsilon_rdp(sampling_rate, high, steps, delta, spent) > epsilon:
        low, high = high, high * 2
        if high > MAX_SIGMA:
            raise DpmixError(
                f"epsilon {epsilon:g} at delta {delta:g} is out of reach in {steps} steps at "
                f"sampling rate {sampling_rate:g}; give a larger epsilon or delta, or fewer steps"
            )
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        if epsilon_rdp(sampling_rate, middle, steps, delta, spent) > epsilon:
            low = middle
        else:
            high = middle
    return high
