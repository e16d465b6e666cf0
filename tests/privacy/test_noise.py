"""The noise that is added: its law, its independence, and the division."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats

from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.plan import PrivacyPlan

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
    return partial(GaussianNoise(plan).release, rng=np.random.default_rng(seed))


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
def test_the_noise_of_a_seed_is_the_same_on_every_device():
    (host,) = noise()([torch.zeros(10)])
    (device,) = noise()([torch.zeros(10, device="cuda")])
    assert torch.equal(host, device.cpu())
