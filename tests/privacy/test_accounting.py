"""Epsilon and sigma against opacus' PRV accountant, dp-accounting itself and closed forms."""

import math

import dp_accounting
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant
from scipy import stats

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import (
    MIN_DELTA,
    calibrate_sigma,
    epsilon_gaussian,
    epsilon_pld,
    epsilon_rdp,
)

# (N, expected batch, steps, delta, epsilon); the first two are WRN-16-4 on CIFAR-10 from scratch.
SETTINGS = [
    (50_000, 4096, 2500, 1e-5, 1.0),
    (50_000, 4096, 2500, 1e-5, 8.0),
    (4_000, 400, 50, 1e-5, 3.0),
    (1_000, 100, 200, 1e-4, 4.0),
]


def by_others(q, sigma, steps, delta, prior=()):
    """Epsilon by dp-accounting's PLD accountant, and by the PRV accountant of opacus."""
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(q, gaussian), steps)
    prv = PRVAccountant()
    # Opacus takes a release without subsampling as one of rate 1.
    prv.history = [(sigma, q, steps), *((other, 1.0, 1) for other in prior)]
    for other in prior:
        accountant.compose(dp_accounting.GaussianDpEvent(other))
    return accountant.get_epsilon(delta), prv.get_epsilon(delta)


@pytest.mark.parametrize(("n", "batch", "steps", "delta", "epsilon"), SETTINGS)
def test_sigma_and_epsilon_agree_with_opacus_and_with_dp_accounting(
    n, batch, steps, delta, epsilon
):
    q = batch / n
    sigma = calibrate_sigma(q, steps, epsilon, delta)
    ours = epsilon_pld(q, sigma, steps, delta)
    assert 0.995 * epsilon < ours <= epsilon
    direct, prv = by_others(q, sigma, steps, delta)
    # Rounded up to a coarser grid of losses.
    assert direct - 1e-9 <= ours <= direct * (1 + 2e-4)
    assert ours == pytest.approx(prv, rel=0.01)
    assert epsilon_pld(q, sigma * (1 - 5e-4), steps, delta) > epsilon
    assert ours < epsilon_rdp(q, sigma, steps, delta) < 1.3 * epsilon


def test_training_and_prior_releases_compose_as_opacus_and_dp_accounting_say():
    prior = (4.0, 9.0)
    ours = epsilon_pld(0.05, 1.2, 200, 1e-5, prior)
    direct, prv = by_others(0.05, 1.2, 200, 1e-5, prior)
    assert ours == pytest.approx(direct, rel=1e-3)
    assert ours == pytest.approx(prv, rel=0.01)


def test_sigma_at_epsilon_8_is_the_published_one():
    # Batch 4,096 of 50,000, 2,500 steps: PLD needs 2.58 where code that counted by RDP used 3.
    assert calibrate_sigma(4096 / 50_000, 2500, 8.0, 1e-5) == pytest.approx(2.58, abs=0.01)


def gaussian_delta(epsilon, sigma):
    """Balle and Wang 2018, theorem 8: the exact delta of one Gaussian release."""
    a, b = 1 / (2 * sigma), epsilon * sigma
    return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)


@pytest.mark.parametrize(("sigma", "delta", "prior"), [
    (0.7, 1e-3, ()), (5.0, 1e-6, ()), (2.0, 1e-5, (3.0, 4.0)), (2.0, 1e-5, (5.0, 5.0, 5.0)),
])  # fmt: skip
def test_releases_without_subsampling_compose_as_one_gaussian(sigma, delta, prior):
    """Together they are one release whose precision 1 / sigma^2 is the sum of theirs."""
    together = sum(s**-2 for s in (sigma, *prior)) ** -0.5
    epsilon = epsilon_pld(1.0, sigma, 1, delta, prior)
    assert gaussian_delta(epsilon, together) == pytest.approx(delta, rel=0.02 if prior else 2e-3)
    assert gaussian_delta(epsilon, together) <= delta
    assert epsilon < epsilon_rdp(1.0, sigma, 1, delta, prior) < 1.3 * epsilon


def test_no_release_costs_nothing_and_no_noise_costs_everything():
    assert epsilon_pld(0.1, 1.0, 0, 1e-5) == 0
    assert epsilon_pld(0.1, 0.0, 1, 1e-5) == math.inf
    assert epsilon_pld(0.1, 1.0, 0, 1e-5, (9.0,)) == epsilon_gaussian(9.0, 1e-5) > 0


@pytest.mark.parametrize("prior", [(8.0,), (20.0, 30.0)])
def test_calibration_keeps_the_whole_within_its_target(prior):
    sigma = calibrate_sigma(0.1, 50, 2.0, 1e-5, prior)
    assert 0.995 * 2 < epsilon_pld(0.1, sigma, 50, 1e-5, prior) <= 2.0
    assert sigma > calibrate_sigma(0.1, 50, 2.0, 1e-5)


@pytest.mark.parametrize(("arguments", "message"), [
    # At delta 0.01 > q even the release of a whole example would do.
    ((0.001, 1, 8.0, 0.01), "almost no noise"),
    ((0.001, 1, 3000.0, 1e-5), "almost no noise"),
    ((1.0, 10**9, 1e-6, 1e-12), "out of reach in 1000000000 steps"),
    ((0.1, 50, 1.0, 1e-5, (1.0,)), r"cost epsilon \d.* leaves nothing of epsilon 1"),
])  # fmt: skip
def test_what_no_sigma_can_keep_is_refused(arguments, message):
    with pytest.raises(DpmixError, match=message):
        calibrate_sigma(*arguments)


@pytest.mark.parametrize("sigma", [5e-324, 0.0999])
def test_less_noise_than_can_be_counted_is_refused_at_once(sigma):
    for given in ((0.1, sigma, 2, 1e-5), (0.1, 1.0, 2, 1e-5, (sigma,))):
        with pytest.raises(DpmixError, match=r"less noise than the accountant can count; give 0\."):
            epsilon_pld(*given)


@pytest.mark.slow
def test_no_calibrated_noise_is_less_than_can_be_counted():
    least = epsilon_pld(1.0, 0.1, 1, 1e-5)
    assert 0.1 <= calibrate_sigma(1.0, 1, 0.97 * least, 1e-5) < 0.11
    with pytest.raises(DpmixError, match="almost no noise"):
        calibrate_sigma(1.0, 1, 1.03 * least, 1e-5)


@pytest.mark.parametrize("delta", [MIN_DELTA, 1e-8, 1e-5])
@pytest.mark.parametrize(("sigma", "steps"), [(5, 50), (5, 1000), (20, 1), (50, 3000), (200, 1000)])
def test_epsilon_is_never_below_that_of_the_exact_gaussian(sigma, steps, delta):
    """T full-batch releases are one of sensitivity sqrt(T): Balle and Wang 2018, Theorem 8."""
    mu, epsilon = math.sqrt(steps) / sigma, epsilon_pld(1.0, sigma, steps, delta)
    below = stats.norm.logcdf(-epsilon / mu - mu / 2)
    exact = stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon + below)
    assert exact <= delta * (1 + 1e-6)
