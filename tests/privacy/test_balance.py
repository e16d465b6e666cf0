"""Weights of classes: closed forms, the law of lower rates, and the one count that is paid for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpmix.privacy.accounting import epsilon_pld
from dpmix.privacy.balance import (
    class_weights,
    mean_weight,
    release_prevalences,
    unit_weights,
)
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import SecureStream
from dpmix.privacy.sampling import PoissonSampler

P = (0.7, 0.2, 0.1)


def test_the_rarest_class_counts_whole_and_all_classes_count_alike_in_sum():
    weights = class_weights(P)
    assert weights == pytest.approx((1 / 7, 0.5, 1.0))
    assert [p * w for p, w in zip(P, weights, strict=True)] == pytest.approx([0.1] * 3)
    assert mean_weight(P) == pytest.approx(np.dot(P, weights)) == pytest.approx(0.3)
    shares = torch.tensor([[1.0, 0, 0], [0.5, 0, 0.5]], dtype=torch.float64)
    one, several = unit_weights(shares, P).tolist()
    assert one == pytest.approx(1 / 7) and several == pytest.approx((1 / 7 + 1) / 2, rel=0.045)


def test_persons_of_many_images_have_few_weights_and_those_of_one_class_its_own():
    shares = torch.linspace(0, 1, 1001, dtype=torch.float64)
    weights = unit_weights(torch.stack([shares, 1 - shares], dim=1), (0.98, 0.02))
    assert len(weights.unique()) < 60 and float(weights.max()) == 1.0
    assert float(weights[-1]) == pytest.approx(0.02 / 0.98, rel=1e-12)


def test_equal_classes_all_count_whole():
    shares = torch.eye(7, dtype=torch.float64)
    assert unit_weights(shares, (1 / 7,) * 7).tolist() == [1.0] * 7
    assert mean_weight((0.25,) * 4) == 1.0


def hockey_stick(one, other, epsilon):
    """The largest of P(S) - e^epsilon P'(S) over all S, by integration."""
    x = np.linspace(-30, 31, 400_001)
    excess = one(x) - math.exp(epsilon) * other(x)
    return np.trapezoid(np.clip(excess, 0, None), x)


@pytest.mark.parametrize("weight", [0.05, 0.4, 0.99])
@pytest.mark.parametrize(("rate", "sigma"), [(1.0, 2.0), (0.3, 0.8), (0.02, 0.6)])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.5])
def test_a_lower_rate_is_at_most_its_weight_times_as_far(weight, rate, sigma, epsilon):
    """The claim of the module, for the two directions, by numerical integration."""

    def without(x):
        return stats.norm.pdf(x, 0, sigma)

    def drawn_at(q):
        return lambda x: (1 - q) * without(x) + q * stats.norm.pdf(x, 1, sigma)

    full, lower = drawn_at(rate), drawn_at(weight * rate)
    for pair in (lambda q: (q, without), lambda q: (without, q)):
        assert hockey_stick(*pair(lower), epsilon) <= (
            weight * hockey_stick(*pair(full), epsilon) + 1e-9
        )


@pytest.mark.parametrize("steps", [1, 50])
@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_the_accountant_never_finds_more_at_a_lower_rate(rate, steps):
    for delta in (1e-3, 1e-5, 1e-7):
        epsilons = [epsilon_pld(w * rate, 3.0, steps, delta) for w in (0.02, 0.3, 0.9, 1.0)]
        assert epsilons == sorted(epsilons) and epsilons[0] < epsilons[-1]


def test_every_unit_is_drawn_at_its_own_rate_and_independently():
    plan = PrivacyPlan.calibrate(
        sampling_rate=0.5, denominator=1, steps=1, epsilon=math.inf, delta=1e-5
    )
    weights, times = torch.tensor([1.0, 0.5, 0.1, 1.0]).double(), 20_000
    sampler, rng = PoissonSampler(plan, 4, weights), np.random.default_rng(0)
    drawn = np.zeros((times, 4))
    for row in drawn:
        row[sampler.draw(rng).numpy()] = 1
    rates = 0.5 * weights.numpy()
    error = np.sqrt(rates * (1 - rates) / times)
    assert (abs(drawn.mean(0) - rates) < 4 * error).all()
    assert abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 4 / math.sqrt(times)


@given(images=st.lists(st.integers(0, 2), min_size=1, max_size=9))
@settings(max_examples=50, deadline=None)
def test_a_unit_moves_the_counts_by_at_most_one(images):
    """Of a person: the shares of their images, whatever those are."""
    shares = np.bincount(images, minlength=3) / len(images)
    assert shares.sum() == pytest.approx(1) and np.linalg.norm(shares) <= 1 + 1e-12


def test_the_count_has_the_noise_that_is_paid_for():
    shares = torch.eye(3, dtype=torch.float64).repeat_interleave(
        torch.tensor([7000, 2000, 1000]), dim=0
    )
    sigma, found = 50.0, []
    for _ in range(400):
        p = np.array(release_prevalences(shares, sigma, SecureStream()))
        found.append(10_000 * p)
    found = np.array(found)
    assert found.mean(0) == pytest.approx([7000, 2000, 1000], abs=4 * 60 / math.sqrt(400))
    # Divided by its own sum: a count c of N has variance sigma^2 (1 - 2 c / N + 3 (c / N)^2).
    for column, p in zip(found.T, P, strict=True):
        expected = sigma * math.sqrt(1 - 2 * p + 3 * p**2)
        assert column.std() == pytest.approx(expected, rel=0.15)


def test_a_class_without_a_unit_is_floored_above_zero():
    shares = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(500, 2)
    for _ in range(20):
        p = release_prevalences(shares, 10.0, SecureStream())
        assert sum(p) == pytest.approx(1) and p[1] >= 10 / (500 + 10 * 12)
