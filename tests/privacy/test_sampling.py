"""Poisson sampling: the statistics that the accountant assumes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.sampling import PoissonSampler


def draw(rate, examples, seed=0):
    """One draw from a stream of its own."""
    return sampler(rate, examples).draw(np.random.default_rng(seed)).tolist()


def sampler(rate, examples):
    plan = PrivacyPlan.calibrate(
        sampling_rate=rate, denominator=1, steps=1, epsilon=math.inf, delta=1e-5
    )
    return PoissonSampler(plan, examples)


def draws(rate, examples, times):
    """[times, examples]: who was drawn when."""
    source, rng = sampler(rate, examples), np.random.default_rng(0)
    drawn = np.zeros((times, examples), dtype=bool)
    for row in drawn:
        row[source.draw(rng).numpy()] = True
    return drawn


def test_every_example_is_drawn_at_the_rate():
    times, rate = 4000, 0.13
    counts = draws(rate, 50, times).sum(0)
    expected = times * rate
    statistic = ((counts - expected) ** 2 / (expected * (1 - rate))).sum()
    assert 1e-3 < stats.chi2(50).cdf(statistic) < 1 - 1e-3


def test_examples_are_drawn_independently_of_each_other_and_of_the_step_before():
    drawn = draws(0.3, 12, 6000).astype(float)
    bound = 5 / math.sqrt(len(drawn))
    pairs = np.corrcoef(drawn.T)[np.triu_indices(12, 1)]
    assert np.abs(pairs).max() < bound
    following = [np.corrcoef(drawn[:-1, i], drawn[1:, i])[0, 1] for i in range(12)]
    assert np.abs(following).max() < bound


def test_the_batch_size_is_binomial():
    sizes = draws(0.2, 40, 5000).sum(1)
    # Fixed batches would have variance 0, and sampling with replacement repeats.
    assert sizes.var() == pytest.approx(40 * 0.2 * 0.8, rel=0.1)
    edges = np.array([-1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 40])
    observed = np.histogram(sizes, edges + 0.5)[0]
    expected = np.diff(stats.binom(40, 0.2).cdf(edges)) * len(sizes)
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_many_examples_are_drawn_from_piece_by_piece_alike(monkeypatch):
    whole = draw(0.3, 1000)
    monkeypatch.setattr("dpmix.privacy.sampling._AT_ONCE", 64)
    assert draw(0.3, 1000) == whole


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 1), st.integers(0, 200), st.integers(0, 2**32))
def test_indices_are_distinct_ascending_and_in_range(rate, examples, seed):
    drawn = draw(rate, examples, seed)
    assert drawn == sorted(set(drawn))
    assert all(0 <= index < examples for index in drawn)


@settings(max_examples=100, deadline=None)
@given(st.floats(0.01, 1), st.integers(1, 100), st.integers(0, 2**32))
def test_one_example_more_leaves_the_draw_of_the_others_as_it_was(rate, examples, seed):
    """The coupling under which neighbouring data sets are compared (first step)."""
    fewer = draw(rate, examples, seed)
    more = draw(rate, examples + 1, seed)
    assert [index for index in more if index < examples] == fewer
