"""epsilon of the person in several equal images, against closed forms and other accountants."""

import math

import dp_accounting.dp_event
import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import PLDAccountant
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from dpmix.privacy.accounting import epsilon_gaussian, epsilon_together
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import (
    _drawn,
    epsilon_of_copies,
    epsilon_of_copies_together,
)
from dpmix.privacy.selection import epsilon_selected


def plan(n=1000, batch=100.0, steps=20, epsilon=3.0, **more):
    return PrivacyPlan.calibrate(
        n=n, expected_batch_size=batch, steps=steps, epsilon=epsilon, delta=1e-5, **more
    )


def delta_of(epsilon, sigma, sensitivity):
    """Of one Gaussian release: Balle and Wang 2018, Theorem 8."""
    a, b = sensitivity / (2 * sigma), epsilon * sigma / sensitivity
    return norm.cdf(a - b) - math.exp(epsilon + norm.logcdf(-a - b))


def test_nine_copies_of_one_image_in_every_step():
    """388 images nine times among 6,986, all in every step: epsilon 3 of one is 47.8 of nine."""
    assert epsilon_of_copies(plan(6986, 6986.0, 50), 9, 50) == pytest.approx(47.78, rel=1e-3)


@pytest.mark.parametrize("copies", [2, 60])
def test_where_all_are_drawn_the_sensitivity_is_the_number_of_copies(copies):
    """T releases of sensitivity m are one of m sqrt(T)."""
    found = epsilon_of_copies_together(((1.0, 40.0, 25),), copies, 1e-5)
    assert delta_of(found, 40.0, copies * 5) <= 1e-5
    assert delta_of(found * 0.99, 40.0, copies * 5) > 1e-5


@pytest.mark.parametrize(("rate", "sigma", "steps", "copies"), [
    (0.3, 3.0, 20, 5), (1e-3, 0.8, 500, 3),
])  # fmt: skip
def test_it_is_the_event_of_dp_accounting(rate, sigma, steps, copies):
    numbers = range(copies + 1)
    event = dp_accounting.dp_event.MixtureOfGaussiansDpEvent(
        sigma, list(numbers), [binom.pmf(k, copies, rate) for k in numbers]
    )
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, 2e-3)
    accountant.compose(dp_accounting.dp_event.SelfComposedDpEvent(event, steps))
    found = epsilon_of_copies_together(((rate, sigma, steps),), copies, 1e-5)
    assert found == pytest.approx(accountant.get_epsilon(1e-5), rel=0.01)


def test_no_attack_on_two_copies_beats_it():
    """Both tests of one drawn release, by the mixture's own distribution function."""
    rate, sigma, copies, delta = 0.3, 1.0, 2, 1e-3
    epsilon = epsilon_of_copies_together(((rate, sigma, 1),), copies, delta)
    chances = binom.pmf(range(copies + 1), copies, rate)
    cuts = np.linspace(-8, 12, 4001)
    inside = sum(p * norm.sf(cuts, k, sigma) for k, p in enumerate(chances))
    outside = norm.sf(cuts, 0, sigma)
    found = max(
        (inside - math.exp(epsilon) * outside).max(),
        ((1 - outside) - math.exp(epsilon) * (1 - inside)).max(),
    )
    assert 0.98 * delta < found <= delta


@settings(max_examples=3, deadline=None)
@example(rate=0.9, sigma=5.0, steps=3, copies=60, spent=[])  # nearly never is none drawn
@example(rate=0.8756293096867855, sigma=1.0, steps=3, copies=19, spent=[])  # 6e-18
@given(
    rate=st.floats(0.01, 1.0), sigma=st.floats(1.0, 8.0), steps=st.integers(1, 30),
    copies=st.integers(2, 40), spent=st.lists(st.floats(5.0, 20.0), max_size=2),
)  # fmt: skip
def test_more_copies_cost_more_and_never_more_than_if_all_were_drawn(
    rate, sigma, steps, copies, spent
):
    training = ((rate, sigma, steps),)
    spent = tuple(spent)

    def of(m):
        return epsilon_of_copies_together(training, m, 1e-5, spent)

    one = epsilon_together(training, 1e-5, spent)
    all_drawn = epsilon_of_copies_together(((1.0, sigma, steps),), copies, 1e-5, spent)
    assert one <= of(copies) * 1.001 <= of(copies + 1) * 1.002
    assert of(copies) <= all_drawn * 1.002


def test_prior_releases_move_by_every_copy():
    found = epsilon_of_copies_together((), 4, 1e-5, (20.0,))
    assert found == pytest.approx(epsilon_gaussian(5.0, 1e-5), rel=1e-3)
    with_it = epsilon_of_copies(plan(prior_releases=(20.0,)), 4, 20)
    assert (
        with_it
        > epsilon_of_copies(plan(prior_releases=(20.0,)), 4, 0)
        == pytest.approx(found, rel=1e-3)
    )


def test_trainings_of_the_same_images_compose():
    one = (0.1, 2.0, 10)
    both = epsilon_of_copies_together((one, one), 3, 1e-5)
    assert both == pytest.approx(epsilon_of_copies_together(((0.1, 2.0, 20),), 3, 1e-5), rel=1e-3)
    assert epsilon_of_copies_together((one, (0.1, 0.0, 1)), 3, 1e-5) == math.inf
    assert epsilon_of_copies_together((), 3, 1e-5) == 0


@pytest.mark.parametrize(("copies", "rate"), [(3, 1e-4), (2000, 0.01), (50_000, 0.3), (40, 0.999)])
def test_unlikely_numbers_of_copies_are_counted_as_likely_ones(copies, rate):
    lowest, weights = _drawn(copies, rate)
    assert weights.sum() == pytest.approx(1, abs=1e-12) and weights.min() > 0
    numbers = np.arange(lowest, lowest + len(weights))
    # No number is counted as one below it, but for a tail that no accountant resolves.
    assert np.all(np.cumsum(weights) <= binom.cdf(numbers, copies, rate) + 1e-12)
    assert len(weights) < 4000


def test_a_private_selection_counts_them_by_group_privacy():
    selection = plan(expected_runs=5.0)
    found = epsilon_of_copies(selection, 2, 20)
    half = found / 2
    # (e, d)-DP for one is (2 e, d (1 + e^e))-DP for two.
    delta = 1e-5 / (1 + math.exp(half))
    given = (selection.sampling_rate, selection.noise_multiplier, 20, delta, 5.0)
    assert epsilon_selected(*given) <= half <= epsilon_selected(*given) * 1.01
    assert found > 2 * selection.epsilon
    assert epsilon_of_copies(selection, 500, 20) == math.inf
