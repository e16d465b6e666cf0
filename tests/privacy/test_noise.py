"""The noise that is added: its law, its independence, and the division."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpmix.errors import DpmixError
from dpmix.privacy import randomness
from dpmix.privacy.noise import GaussianNoise, _grid, _whole_noise, with_noise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import SecureStream

PLAN = PrivacyPlan(
    sampling_rate=0.5,
    denominator=8.0,
    steps=3,
    noise_multiplier=1.5,
    max_grad_norm=0.25,
    delta=1e-5,
    sensitivity_multiplier=2,
    target_epsilon=3.0,
)
STD = 1.5 * 0.25 * 2


def noise(plan=PLAN, seed=0):
    """Releases, step after step, from one stream."""
    made, rng = GaussianNoise(plan), np.random.default_rng(seed)
    return lambda sums: made.release(sums, made.draw(sums, rng))


def test_the_law_is_normal_with_sigma_times_c_times_the_multiplier():
    (released,) = noise()([torch.zeros(200_000, dtype=torch.float64)])
    sample = (released * 8).numpy()
    assert stats.kstest(sample, stats.norm(0, STD).cdf).pvalue > 1e-3
    assert sample.std() == pytest.approx(STD, rel=0.01)
    # Tails: what lies beyond 4 standard deviations is rare, and there.
    beyond = (np.abs(sample) > 4 * STD).sum()
    assert stats.poisson(200_000 * 2 * stats.norm.sf(4)).cdf(beyond) > 1e-3
    assert beyond < 40


def test_sum_and_noise_are_divided_by_the_plans_denominator():
    total = torch.tensor([[8.0, -4.0]])
    (with_sum,), (without,) = noise()([total]), noise()([torch.zeros(1, 2)])
    assert torch.allclose(with_sum - without, total / 8)


def test_tensors_coordinates_and_steps_get_noise_of_their_own():
    source = noise()
    zero = [torch.zeros(1000), torch.zeros(1000)]
    (a, b), (c, d) = source(zero), source(zero)
    for one, other in [(a, b), (a, c), (b, d), (a[:-1], a[1:])]:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / math.sqrt(999)


@given(
    c=st.floats(1e-3, 1e3), sigma=st.floats(0.1, 1e6), batch=st.floats(1, 1e6),
    total=st.lists(st.floats(-1, 1), min_size=1, max_size=8), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_release_lies_on_a_grid_that_does_not_depend_on_the_sum(c, sigma, batch, total, seed):
    """So its last bits say nothing: plain sum + noise takes values of the sum's own."""
    sums = c * batch * torch.tensor(total, dtype=torch.float64)
    grid = _grid(c, sigma * c, batch)
    noisy = with_noise(sums, sigma * c, c, batch, np.random.default_rng(seed))
    alone = with_noise(0 * sums, sigma * c, c, batch, np.random.default_rng(seed))
    steps = noisy / grid
    assert (steps == steps.round()).all() and steps.abs().max() < 2**53
    # Exact: the same whole numbers were added, and the sum's own rounding is a step at most.
    assert torch.equal((noisy - alone) / grid, (sums / grid).round())
    # What rounding adds to the sensitivity is a small part of it, and the noise is enlarged by it.
    assert grid <= c * 2**-13 and math.log2(grid) % 1 == 0


@pytest.mark.parametrize("smaller", [23, 0])
def test_no_whole_number_is_left_out(monkeypatch, smaller):
    """An example's release shifts the numbers: one that can't occur would exclude its absence.

    Normal numbers of 53 bits lie further apart than the grid beyond 5.6 standard deviations. Here
    all points are that far out, their number being 2^23 times smaller than drawn, or none.
    """
    std, drawn = 2.0**40, randomness._words

    def words(count):
        made = drawn(count).view(3, -1)
        made[0] = (made[0] & randomness._LOW) >> smaller
        return made.flatten()

    monkeypatch.setattr(randomness, "_words", words)
    found = _whole_noise(400_000, std, SecureStream())
    assert found.abs().max() > 5.6 * std or not smaller
    for step in (2**10, 2**17):  # every number of a stretch, and within a step of the coarse part
        within = (found % step / step * 2**10).long()
        assert stats.chisquare(np.bincount(within, minlength=2**10)).pvalue > 1e-6


def test_the_two_parts_of_a_number_and_its_neighbours_are_independent():
    one, other = (part.numpy() for part in SecureStream().normal_pairs(400_000))
    for a, b in [(one, other), (one**2, other**2), (abs(one), other), (one[1:], other[:-1])]:
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / math.sqrt(len(one))


@pytest.mark.parametrize("smallest", [True, False])
def test_radii_lie_closer_than_53_bits_would_have_it(monkeypatch, smallest):
    words = torch.arange(4000) if smallest else 2**53 - 1 - torch.arange(4000)
    more = torch.randint(0, 2**53, (4000,))
    monkeypatch.setattr(randomness, "_words", lambda count: torch.cat([words, more, 0 * more]))
    radius, _ = SecureStream().normal_pairs(4000)
    exact = [
        math.sqrt(-2 * math.log(w + m * 2.0**-53) + 106 * math.log(2))
        if smallest
        else math.sqrt(2 * (2**53 - w - m * 2.0**-53) * 2.0**-53)
        for w, m in zip(words.tolist(), more.tolist(), strict=True)
    ]
    if smallest:
        np.testing.assert_allclose(radius, exact, rtol=1e-12)
    else:
        # Near one, a part more is added as itself, not taken away: the law is the same.
        law = np.sqrt(2 * (np.arange(1, 4001) + 0.5) * 2.0**-53)
        np.testing.assert_allclose(radius, law, rtol=1)
    assert len(radius.unique()) == 4000


def test_the_noise_makes_up_for_what_rounding_adds_to_the_sensitivity(monkeypatch):
    monkeypatch.setattr(
        SecureStream, "normal_pairs", lambda _, size: torch.ones(2, size).double().unbind()
    )
    # A grid as coarse as can be had, by noise of a million times the sensitivity.
    std, count = 2.0**20, 10_000
    grid = _grid(1.0, std, 1.0)
    noisy = with_noise(torch.zeros(count), std, 1.0, 1.0, SecureStream())
    # Of two parts, each one standard deviation off, which add up to more than one of the whole.
    assert noisy[0] >= std * (1 + grid * math.sqrt(count)) * (1 - 1e-6)


def test_noise_is_handed_over_once_and_drawn_while_others_compute():
    made, zeros = GaussianNoise(PLAN), [torch.zeros(100_000), torch.zeros(3)]
    drawn = made.draw(zeros, SecureStream())
    assert [len(one) for one in made.release(zeros, drawn)] == [100_000, 3]
    with pytest.raises(AssertionError):
        made.release(zeros, drawn)


def test_an_error_in_the_background_reaches_the_release(monkeypatch):
    monkeypatch.setattr("os.urandom", lambda count: 1 / 0)
    made = GaussianNoise(PLAN)
    with pytest.raises(ZeroDivisionError):
        made.release([torch.zeros(3)], made.draw([torch.zeros(3)], SecureStream()))


def test_float64_draws_are_rounded_once():
    total = [torch.zeros(5000, dtype=torch.float64), torch.zeros(5000, dtype=torch.float32)]
    wide, narrow = noise()(total)
    assert (wide.dtype, narrow.dtype) == (torch.float64, torch.float32)
    assert (wide != wide.float()).any()


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_shapes_are_kept(shape):
    (released,) = noise()([torch.zeros(shape)])
    assert released.shape == shape


def test_without_privacy_only_the_division_is_left():
    plan = PrivacyPlan.calibrate(n=10, expected_batch_size=4, steps=1, epsilon=math.inf, delta=1e-5)
    (released,) = noise(plan)([torch.tensor([4.0, 2.0])])
    assert released.tolist() == [1.0, 0.5]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_noise_of_a_seed_is_the_same_on_cuda():
    (host,) = noise()([torch.zeros(10)])
    (device,) = noise()([torch.zeros(10, device="cuda")])
    assert torch.equal(host, device.cpu())


@pytest.mark.parametrize("denominator", [1e14, 1e30])
def test_a_denominator_that_leaves_no_bits_for_the_noise_is_refused(denominator):
    with pytest.raises(DpmixError, match="denominator 1e"):
        GaussianNoise(replace(PLAN, denominator=denominator))
