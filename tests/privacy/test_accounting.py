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
    calibrate_sigma,
    epsilon_gaussian,
    epsilon_pld,
    epsilon_rdp,
)

# (N, expected batch, steps, delta, epsilon); the first four are WRN-16-4 on CIFAR-10 from scratch.
SETTINGS = [
    (50_000, 4096, 2500, 1e-5, 1.0),
    (50_000, 4096, 2500, 1e-5, 2.0),
    (50_000, 4096, 2500, 1e-5, 4.0),
    (50_000, 4096, 2500, 1e-5, 8.0),
    (50_000, 1000, 500, 1e-5, 1.0),
    (50_000, 4096, 875, 1e-5, 1.0),
    (4_000, 400, 50, 1e-5, 3.0),
    (21_600, 1000, 216, 1e-5, 2.0),
    (3_680, 1000, 37, 1e-5, 1.0),
    (1_000, 100, 200, 1e-4, 4.0),
]


def event(q, sigma, steps):
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    sampled = dp_accounting.PoissonSampledDpEvent(q, gaussian)
    return dp_accounting.SelfComposedDpEvent(sampled, steps)


@pytest.mark.parametrize(("n", "batch", "steps", "delta", "epsilon"), SETTINGS)
def test_sigma_and_epsilon_agree_with_opacus_and_with_dp_accounting(
    n, batch, steps, delta, epsilon
):
    q = batch / n
    sigma = calibrate_sigma(q, steps, epsilon, delta)
    ours = epsilon_pld(q, sigma, steps, delta)
    assert 0.995 * epsilon < ours <= epsilon

    opacus = PRVAccountant()
    opacus.history = [(sigma, q, steps)]
    assert ours == pytest.approx(opacus.get_epsilon(delta), rel=0.01)

    def direct(sigma):
        accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
        return accountant.compose(event(q, sigma, steps)).get_epsilon(delta)

    assert ours == pytest.approx(direct(sigma))
    assert direct(sigma * (1 - 5e-4)) > epsilon


def test_sigma_at_epsilon_8_is_the_published_one():
    # Batch 4,096 of 50,000, 2,500 steps: PLD needs 2.58 where code that counted by RDP used 3.
    assert calibrate_sigma(4096 / 50_000, 2500, 8.0, 1e-5) == pytest.approx(2.58, abs=0.01)


@pytest.mark.parametrize(("sigma", "delta"), [(0.7, 1e-3), (1.0, 1e-5), (2.0, 1e-5), (5.0, 1e-6)])
def test_one_release_of_everyone_is_the_gaussian_mechanism(sigma, delta):
    """Balle and Wang 2018, theorem 8: delta(eps) in closed form."""
    epsilon = epsilon_pld(1.0, sigma, 1, delta)
    half, shift = 1 / (2 * sigma), epsilon * sigma
    closed = stats.norm.cdf(half - shift) - math.exp(epsilon) * stats.norm.cdf(-half - shift)
    assert closed == pytest.approx(delta, rel=2e-3)
    assert closed <= delta


@pytest.mark.parametrize(("steps", "sigma"), [(4, 2.0), (25, 5.0)])
def test_composing_everyone_t_times_is_one_release_with_sigma_over_root_t(steps, sigma):
    once = epsilon_pld(1.0, sigma / math.sqrt(steps), 1, 1e-5)
    assert epsilon_pld(1.0, sigma, steps, 1e-5) == pytest.approx(once, rel=2e-3)


@pytest.mark.parametrize(("n", "batch", "steps", "delta", "epsilon"), SETTINGS[::3])
def test_renyi_accounting_is_looser(n, batch, steps, delta, epsilon):
    sigma = calibrate_sigma(batch / n, steps, epsilon, delta)
    renyi = epsilon_rdp(batch / n, sigma, steps, delta)
    assert epsilon_pld(batch / n, sigma, steps, delta) < renyi < 1.3 * epsilon


def test_no_release_costs_nothing_and_no_noise_costs_everything():
    assert epsilon_pld(0.1, 1.0, 0, 1e-5) == 0
    assert epsilon_pld(0.1, 0.0, 1, 1e-5) == math.inf


@pytest.mark.parametrize(("epsilon", "delta"), [(8.0, 0.01), (3000.0, 1e-5)])
def test_a_guarantee_that_asks_for_nearly_no_noise_is_refused(epsilon, delta):
    # At delta 0.01 > q even the release of a whole example would do.
    with pytest.raises(DpmixError, match="almost no noise"):
        calibrate_sigma(0.001, 1, epsilon, delta)


@pytest.mark.parametrize("sigma", [5e-324, 1e-6, 1e-3, 0.02, 0.0999])
def test_less_noise_than_can_be_counted_is_refused_at_once(sigma):
    with pytest.raises(DpmixError, match=r"less noise than the accountant can count; give 0\.1"):
        epsilon_pld(0.1, sigma, 2, 1e-5)
    with pytest.raises(DpmixError, match=r"less noise than the accountant can count; give 0\.1"):
        epsilon_pld(0.1, 1.0, 2, 1e-5, (sigma,))


@pytest.mark.slow
def test_no_calibrated_noise_is_less_than_can_be_counted():
    least = epsilon_pld(1.0, 0.1, 1, 1e-5)
    assert 0.1 <= calibrate_sigma(1.0, 1, 0.97 * least, 1e-5) < 0.11
    with pytest.raises(DpmixError, match="almost no noise"):
        calibrate_sigma(1.0, 1, 1.03 * least, 1e-5)


def test_a_guarantee_out_of_reach_is_refused():
    with pytest.raises(DpmixError, match="out of reach in 1000000000 steps"):
        calibrate_sigma(1.0, 10**9, 1e-6, 1e-12)


# What was spent before composes. Gaussian releases without subsampling have a closed form: together
# they are one whose precision 1 / sigma^2 is the sum of theirs.


def gaussian_delta(epsilon, sigma):
    """Balle and Wang 2018, theorem 8: the exact delta of one Gaussian release."""
    a, b = 1 / (2 * sigma), epsilon * sigma
    return stats.norm.cdf(a - b) - math.exp(epsilon) * stats.norm.cdf(-a - b)


@pytest.mark.parametrize("spent", [(3.0,), (3.0, 4.0), (5.0, 5.0, 5.0)])
def test_releases_without_subsampling_compose_as_one_gaussian(spent):
    sigma = sum(s**-2 for s in (2.0, *spent)) ** -0.5
    epsilon = epsilon_pld(1.0, 2.0, 1, 1e-5, spent)
    assert gaussian_delta(epsilon, sigma) == pytest.approx(1e-5, rel=0.02)
    assert gaussian_delta(epsilon, sigma) <= 1e-5
    assert epsilon < epsilon_rdp(1.0, 2.0, 1, 1e-5, spent) < 1.3 * epsilon


def test_training_and_what_was_spent_compose_as_opacus_and_dp_accounting_say():
    q, sigma, steps, spent, delta = 0.05, 1.2, 200, (4.0, 9.0), 1e-5
    training = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma)), steps
    )
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(training)
    for other in spent:
        accountant.compose(dp_accounting.GaussianDpEvent(other))
    ours = epsilon_pld(q, sigma, steps, delta, spent)
    assert ours == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)
    # Opacus' PRV accountant takes a release without subsampling as one of rate 1.
    prv = PRVAccountant()
    prv.history = [(sigma, q, steps), *((other, 1.0, 1) for other in spent)]
    assert ours == pytest.approx(prv.get_epsilon(delta), rel=0.01)


@pytest.mark.parametrize("spent", [(8.0,), (20.0, 30.0)])
def test_calibration_keeps_the_whole_within_its_target(spent):
    sigma = calibrate_sigma(0.1, 50, 2.0, 1e-5, spent)
    whole = epsilon_pld(0.1, sigma, 50, 1e-5, spent)
    assert whole <= 2.0
    assert whole == pytest.approx(2.0, rel=5e-3)
    assert sigma > calibrate_sigma(0.1, 50, 2.0, 1e-5)


def test_what_leaves_nothing_is_refused():
    with pytest.raises(DpmixError, match=r"cost epsilon \d.* leaves nothing of epsilon 1"):
        calibrate_sigma(0.1, 50, 1.0, 1e-5, (1.0,))


def test_before_the_first_step_what_was_spent_is_spent():
    assert epsilon_pld(0.1, 1.0, 0, 1e-5) == 0
    assert epsilon_pld(0.1, 1.0, 0, 1e-5, (9.0,)) == epsilon_gaussian(9.0, 1e-5) > 0
