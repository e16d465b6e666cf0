"""What a test of membership can find: against closed forms, simulated tests and brute force."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from dpmix.privacy.accounting import epsilon_pld
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.selection import epsilon_selected
from dpmix.privacy.tradeoff import LARGEST_GAP, tradeoff_of_epsilon, tradeoff_stated

FPR = np.array([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.9, 0.999])


def stated(q, sigma, steps, prior=(), delta=1e-5):
    return tradeoff_stated(q, sigma, steps, delta, None, prior)


def just_above(bound, exact):
    assert (bound >= exact - 1e-9).all()
    assert bound == pytest.approx(exact, rel=2e-3)


@pytest.mark.parametrize(("sigma", "steps", "prior"), [
    (0.5, 1, ()), (1.0, 1, ()), (4.0, 1, ()), (8.0, 100, ()), (2.0, 3, (1.0, 5.0)),
    (50.0, 1, ()),
])  # fmt: skip
def test_gaussian_releases_without_sampling_have_their_closed_form(sigma, steps, prior):
    mu = math.sqrt(steps / sigma**2 + sum(1 / one**2 for one in prior))
    curve = stated(1.0, sigma, steps, prior)
    just_above(curve.most_found(FPR), ndtr(mu + ndtri(FPR)))
    assert curve.best_guess == pytest.approx(ndtr(mu / 2), rel=1e-4)
    nearest = curve.gaussian(1e-5)
    assert mu - 1e-9 <= nearest.mu == pytest.approx(mu, rel=2e-3, abs=3e-4)
    assert nearest.gap < 1e-3


@pytest.mark.parametrize(("q", "sigma"), [(0.1, 0.8), (0.5, 1.0), (0.02, 0.7), (0.9, 3.0)])
def test_one_step_is_the_worse_of_its_two_likelihood_ratio_tests(q, sigma):
    # The likelihood ratio grows with the release, so the best tests are thresholds of it.
    cuts = np.linspace(-12 * sigma, 1 + 12 * sigma, 200_001)
    absent, present = (
        ndtr(cuts / sigma),
        (1 - q) * ndtr(cuts / sigma) + q * ndtr((cuts - 1) / sigma),
    )
    found = np.interp(FPR, 1 - absent[::-1], 1 - present[::-1])  # that x was in, above the cut
    exchanged = np.interp(FPR, present, absent)  # that x was not in, below it
    bound = stated(q, sigma, 1).most_found(FPR)
    assert (bound >= np.maximum(found, exchanged) * (1 - 1e-5)).all()
    assert bound == pytest.approx(np.maximum(found, exchanged), rel=0.01)
    assert np.ptp(np.sign(found - exchanged)) == 2  # each is the worse one somewhere


def test_many_steps_bound_the_simulated_likelihood_ratio_test_closely():
    q, sigma, steps, runs = 0.1, 1.2, 20, 200_000
    rng = np.random.default_rng(5)
    losses = {True: 0.0, False: 0.0}
    for present in losses:
        for _ in range(steps):
            drawn = (rng.random(runs) < q) & present
            release = drawn + sigma * rng.standard_normal(runs)
            losses[present] += np.log1p(q * np.expm1((release - 0.5) / sigma**2))
    bound = stated(q, sigma, steps)
    for fpr in (0.01, 0.1):
        cut = np.quantile(losses[False], 1 - fpr)
        found = float(np.mean(losses[True] > cut))
        assert found == pytest.approx(bound.most_found_at(fpr), rel=0.03)
    right = (1 + np.mean(losses[True] > 0) - np.mean(losses[False] > 0)) / 2
    assert right == pytest.approx(bound.best_guess, abs=0.003)


@pytest.mark.parametrize(("epsilon", "delta"), [
    (0.0, 0.0), (0.0, 0.02), (0.5, 1e-5), (3.0, 1e-2), (8.0, 1e-6),
])  # fmt: skip
def test_epsilon_and_delta_alone_allow_what_brute_force_finds(epsilon, delta):
    grown, shares = math.exp(epsilon), np.linspace(0, 1, 2001)
    tpr, fpr = np.meshgrid(shares, shares)
    # Each inequality of (epsilon, delta)-DP, for a test and for its complement, in both roles.
    allowed = (tpr <= grown * fpr + delta) & (1 - fpr <= grown * (1 - tpr) + delta)
    allowed |= tpr <= fpr
    most = np.where(allowed, tpr, 0).max(axis=1)
    curve = tradeoff_of_epsilon(epsilon, delta)
    assert curve.most_found(shares) == pytest.approx(most, abs=6e-4)
    assert (curve.most_found(shares) >= most - 1e-12).all()
    guess = np.where(allowed, 1 + tpr - fpr, 0).max() / 2
    assert guess - 1e-12 <= curve.best_guess <= guess + 1e-3


@settings(max_examples=15, deadline=None)
@given(
    q=st.floats(0.01, 1), sigma=st.floats(0.6, 8), steps=st.integers(1, 60),
    delta=st.sampled_from([1e-7, 1e-5, 1e-3]), prior=st.sampled_from([(), (2.0,)]),
)  # fmt: skip
def test_a_curve_is_monotone_above_guessing_and_below_what_epsilon_allows(
    q, sigma, steps, delta, prior
):
    curve = stated(q, sigma, steps, prior, delta)
    fpr = np.geomspace(1e-9, 1, 300)
    found = curve.most_found(fpr)
    assert (np.diff(found) >= 0).all() and (found >= fpr - 1e-12).all() and found.max() <= 1
    epsilon = epsilon_pld(q, sigma, steps, delta, prior)
    between_lines = math.exp(np.diff(curve.epsilons)[0])
    allowed = tradeoff_of_epsilon(epsilon, delta)
    if epsilon <= curve.epsilons[-1]:
        assert (found <= allowed.most_found(fpr) * between_lines + 1e-9).all()
    assert curve.best_guess <= allowed.best_guess + 1e-9
    if nearest := curve.gaussian(delta):
        assert nearest.gap < LARGEST_GAP
        most = ndtr(nearest.mu + ndtri(np.minimum(fpr + delta, 1))) + delta
        assert (found <= most + 1e-9).all()


def test_the_gap_is_the_least_shift_that_puts_the_gaussian_below():
    curve = stated(4096 / 50_000, 2.6, 2500)
    nearest = curve.gaussian(1e-5)
    assert 0.001 < nearest.gap < LARGEST_GAP

    def below(shift):
        fpr = np.linspace(shift, 1, 20_001)
        return (ndtr(nearest.mu + ndtri(fpr - shift)) - shift <= curve.most_found(fpr)).all()

    assert below(nearest.gap * 1.01) and not below(nearest.gap * 0.99)


def test_a_run_that_no_gaussian_is_near_has_no_mu():
    # One step that hardly ever draws x: nothing for most, and much for the rest.
    assert stated(0.01, 0.5, 1).gaussian(1e-5) is None
    # So little noise that tests hardly err: all Gaussians beyond a mu are alike.
    assert stated(1.0, 0.1, 1).gaussian(1e-5) is None


def test_a_private_selection_has_what_its_epsilon_and_delta_alone_allow():
    given_to_all = (0.1, 2.0, 20, 1e-5)
    best = tradeoff_stated(*given_to_all, 10.0)
    alone = tradeoff_of_epsilon(epsilon_selected(*given_to_all, 10.0), 1e-5)
    assert (best.most_found(FPR) == alone.most_found(FPR)).all()
    assert (
        best.most_found(FPR)[2:6] > tradeoff_stated(*given_to_all, None).most_found(FPR)[2:6]
    ).all()


def test_what_was_not_released_finds_nothing_and_what_was_before_counts():
    plan = PrivacyPlan.calibrate(
        n=100, expected_batch_size=10, epsilon=1, steps=0, prior_releases=(8.0,)
    )
    just_above(plan.tradeoff.most_found(FPR), ndtr(1 / 8 + ndtri(FPR)))
    nothing = stated(0.1, 1.0, 0)
    assert (nothing.most_found(FPR) == FPR).all() and nothing.best_guess == 0.5
    assert nothing.gaussian(1e-5).mu == 0
