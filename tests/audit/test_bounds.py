"""The bounds on epsilon: against exact tail sums, closed forms, and mechanisms of known epsilon."""

import math

import numpy as np
import pytest
from scipy import stats

from dpmix.audit.bounds import (
    best_one_run_epsilon,
    best_two_world_epsilon,
    one_run_epsilon,
    two_world_epsilon,
)


@pytest.mark.parametrize(("correct", "guesses"), [(70, 100), (999, 1000)])
def test_without_delta_one_run_inverts_a_binomial_tail(correct, guesses):
    epsilon = one_run_epsilon(correct, guesses, guesses, 0.0, 0.95)
    # Clopper and Pearson's lower bound of the share of right guesses, as a logit.
    share = stats.beta.ppf(0.05, correct, guesses - correct + 1)
    assert epsilon == pytest.approx(math.log(share / (1 - share)), abs=1e-3)


def test_delta_and_more_canaries_lower_the_bound():
    plain = one_run_epsilon(95, 100, 100, 0.0, 0.95)
    some = one_run_epsilon(95, 100, 100, 1e-4, 0.95)
    many = one_run_epsilon(95, 100, 1000, 1e-4, 0.95)
    assert plain > some > many > 0
    assert one_run_epsilon(50, 100, 100, 1e-5, 0.95) == 0.0


def test_two_worlds_without_errors_is_the_rule_of_clopper_and_pearson():
    epsilon = two_world_epsilon(0, 1000, 0, 1000, 0.0, 0.95)
    rate = 1 - 0.025 ** (1 / 1000)
    assert epsilon == pytest.approx(math.log((1 - rate) / rate))
    assert two_world_epsilon(1000, 1000, 0, 1000, 1e-5, 0.95) == 0.0


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_randomised_response_is_never_overstated_beyond_the_risk_and_nearly_reached(epsilon):
    """Tight: each canary's draw is told truly with probability e^epsilon / (1 + e^epsilon)."""
    rng, tries, above = np.random.default_rng(0), 12, [0, 0]
    for _ in range(tries):
        included = rng.random(3000) < 0.5
        told = included ^ (rng.random(3000) > 1 / (1 + math.exp(-epsilon)))
        scores = told + 1e-3 * rng.random(3000)
        one = best_one_run_epsilon(scores, included, 0.0, 0.95)
        two = best_two_world_epsilon(scores[~included], scores[included], 0.0, 0.95)
        above[0] += one > epsilon
        above[1] += two > epsilon
        assert one > 0.6 * epsilon
    # At a risk of 5 %, 0.6 of 12 are expected at most; 5 would be beyond chance.
    assert max(above) < 5


def test_a_gaussian_mechanism_comes_out_near_its_epsilon_and_below_it():
    rng = np.random.default_rng(1)
    included = rng.random(200_000) < 0.5
    scores = rng.normal(included, 1.0)
    epsilon = 4.377  # of sigma 1 at delta 1e-5: Balle and Wang 2018
    two = best_two_world_epsilon(scores[~included], scores[included], 1e-5, 0.95)
    one = best_one_run_epsilon(scores, included, 1e-5, 0.95)
    assert 0.45 * epsilon < two < epsilon
    assert 0.2 * epsilon < one < epsilon
