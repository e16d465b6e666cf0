"""The best of a random number of runs: Theorem 2 of arXiv 2110.03620, by hand."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import compute_epsilon
from scipy.optimize import brentq

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import RDP_ORDERS, epsilon_rdp
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.selection import calibrate_selected, epsilon_selected, number_of_runs


def by_hand(q, sigma, steps, delta, mean):
    """The theorem with eta = 0: gamma solves mean = (1 / gamma - 1) / log(1 / gamma)."""
    accountant = RdpAccountant(RDP_ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    accountant.compose(dp_accounting.PoissonSampledDpEvent(q, gaussian), steps)
    orders, one = np.array(RDP_ORDERS, dtype=float), np.array(accountant._rdp)
    gamma = brentq(lambda g: (1 / g - 1) / math.log(1 / g) - mean, 1e-9, 1 - 1e-9)
    least = min((1 - 1 / orders) * one + math.log(1 / gamma) / orders)
    best = one + least + math.log(mean) / (orders - 1)
    # Renyi divergence grows with its order.
    best = np.minimum.accumulate(best[::-1])[::-1]
    return compute_epsilon(orders, best, delta)[0]


@pytest.mark.parametrize("mean", [2.0, 100.0])
@pytest.mark.parametrize(("q", "sigma", "steps"), [(0.1, 1.35, 50), (1.0, 20.0, 100)])
def test_epsilon_is_that_of_the_theorem(q, sigma, steps, mean):
    assert epsilon_selected(q, sigma, steps, 1e-5, mean) == pytest.approx(
        by_hand(q, sigma, steps, 1e-5, mean), rel=1e-6
    )


def test_more_runs_cost_more_and_one_run_no_less_than_itself():
    one = epsilon_rdp(0.1, 2.0, 50, 1e-5)
    costs = [epsilon_selected(0.1, 2.0, 50, 1e-5, mean) for mean in (1, 2, 5, 10, 100)]
    assert [one, *costs] == sorted([one, *costs])
    assert costs[-1] < 3 * one


def test_prior_releases_are_paid_once():
    with_it = epsilon_selected(0.1, 2.0, 50, 1e-5, 10, prior_releases=(5.0,))
    without = epsilon_selected(0.1, 2.0, 50, 1e-5, 10)
    assert without < with_it < without + 2 * epsilon_rdp(1.0, math.inf, 0, 1e-5, (5.0,))


@pytest.mark.parametrize("prior", [(), (8.0,)])
def test_sigma_is_the_least_that_keeps_the_target(prior):
    sigma = calibrate_selected(0.1, 50, 3.0, 1e-5, 10, prior)
    assert epsilon_selected(0.1, sigma, 50, 1e-5, 10, prior) <= 3.0
    assert epsilon_selected(0.1, sigma * 0.999, 50, 1e-5, 10, prior) > 3.0


@pytest.mark.parametrize(
    ("epsilon", "delta", "expected"),
    [(1e-7, 1e-5, "out of reach"), (1e6, 0.5, "no noise")],
)
def test_what_no_sigma_can_keep_is_refused(epsilon, delta, expected):
    with pytest.raises(DpmixError, match=expected):
        calibrate_selected(0.1, 50, epsilon, delta, 10)


@pytest.mark.parametrize("mean", [1.0, 1.5, 100.0])
def test_the_number_of_runs_has_the_distribution_of_the_theorem(mean):
    # Equally spaced uniforms: their mean is that of the distribution but for the tail's end.
    count = 2000
    runs = [number_of_runs(mean, (i + 0.5) / count) for i in range(count)]
    assert min(runs) == 1
    assert number_of_runs(mean, math.nextafter(1.0, 0.0)) < 50_000  # the last number ends
    assert np.mean(runs) == pytest.approx(mean, rel=0.02)
    if mean > 1:
        gamma = brentq(lambda g: (1 / g - 1) / math.log(1 / g) - mean, 1e-9, 1 - 1e-9)
        for k in (1, 2, 3):
            chance = (1 - gamma) ** k / (k * math.log(1 / gamma))
            assert runs.count(k) / count == pytest.approx(chance, abs=1 / count)


def plan(**settings):
    fields = {"n": 4000, "expected_batch_size": 400, "steps": 50, "epsilon": 3.0, "delta": 1e-5}
    return PrivacyPlan.calibrate(**(fields | settings))


def test_a_plan_states_the_epsilon_of_the_best_run():
    selected, alone = plan(expected_runs=10.0), plan()
    assert selected.noise_multiplier > 1.4 * alone.noise_multiplier
    assert 2.99 < selected.epsilon <= 3.0
    assert selected.epsilon_after(10) == selected.epsilon_rdp_after(10) < selected.epsilon
    assert selected.epsilon_after(0) == 0


@pytest.mark.parametrize("expected_runs", [0.5, math.nan, 1e5])
def test_an_impossible_number_of_runs_is_refused(expected_runs):
    with pytest.raises(DpmixError, match="expected_runs"):
        plan(expected_runs=expected_runs)
