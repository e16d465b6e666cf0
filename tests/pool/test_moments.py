"""The release: what one image adds, and how much noise is on it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpmix.pool.score import COUNT, SECOND, SUM, Moments

L, K = 3, 4


def coordinates(count, rng, length=None):
    z = torch.from_numpy(rng.standard_normal((count, K)))
    longest = rng.random(count) if length is None else np.full(count, length)
    return z / z.norm(dim=1, keepdim=True) * torch.from_numpy(longest)[:, None]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([None, 0.0, 0.5, 1.0]))
def test_one_image_moves_the_vector_by_at_most_one(seed, count, length):
    rng = np.random.default_rng(seed)
    z, y = coordinates(count, rng, length), torch.from_numpy(rng.integers(0, L, count))
    gone = int(rng.integers(count))
    kept = torch.arange(count) != gone
    whole = Moments.of(z, y, L).vector()
    without = Moments.of(z[kept], y[kept], L).vector()
    moved = float((whole - without).norm())
    assert moved <= 1 + 1e-12
    norm = float(z[gone].norm())
    expected = (COUNT**2 + SUM**2 * norm**2 + SECOND**2 * norm**4) ** 0.5
    assert moved == pytest.approx(expected, abs=1e-9)


def test_the_bound_is_reached():
    z = coordinates(1, np.random.default_rng(0), 1.0)
    assert float(Moments.of(z, torch.tensor([1]), L).vector().norm()) == pytest.approx(1)


def test_the_vector_holds_the_counts_sums_and_second_moments():
    rng = np.random.default_rng(1)
    z, y = coordinates(50, rng), torch.from_numpy(rng.integers(0, L, 50))
    moments = Moments.of(z, y, L)
    for label in range(L):
        mine = z[y == label]
        assert moments.count[label] == len(mine)
        assert torch.allclose(moments.total[label], mine.sum(dim=0))
    outer = torch.stack([torch.outer(row, row) for row in z]).sum(dim=0)
    assert torch.allclose(moments.second, outer)
    back = Moments.from_vector(moments.vector(), moments.size)
    for name in ("count", "total", "second"):
        assert torch.allclose(getattr(back, name), getattr(moments, name), atol=1e-12)


def test_the_release_adds_noise_of_standard_deviation_sigma_to_every_entry_of_the_vector():
    exact = Moments.of(torch.zeros(2, K, dtype=torch.float64), torch.tensor([0, 2]), L)
    sigma, rng = 3.0, np.random.default_rng(2)
    noise = torch.stack([exact.released(sigma, rng).vector() - exact.vector() for _ in range(4000)])
    assert noise.shape[1] == L + L * K + K * (K + 1) // 2
    assert stats.kstest(noise.flatten()[:20_000] / sigma, "norm").pvalue > 1e-3
    spread = noise.std(dim=0)
    assert ((spread - sigma).abs() < 0.2).all()
    correlation = np.corrcoef(noise.T.numpy()) - np.eye(noise.shape[1])
    assert np.abs(correlation).max() < 0.1


def test_noise_is_fresh_at_every_release():
    exact = Moments.of(torch.zeros(1, K, dtype=torch.float64), torch.tensor([0]), L)
    rng = np.random.default_rng(3)
    one, two = (exact.released(1.0, rng).vector() for _ in range(2))
    assert not torch.equal(one, two)


def test_scaling_keeps_the_means_and_sets_the_counts():
    rng = np.random.default_rng(4)
    moments = Moments.of(coordinates(30, rng), torch.arange(30) % 2, L)
    scaled = moments.scaled(torch.tensor([60.0, 5.0, 7.0], dtype=torch.float64))
    assert scaled.count.tolist() == [60, 5, 0]
    assert torch.allclose(scaled.total[:2] / scaled.count[:2, None],
                          moments.total[:2] / moments.count[:2, None])  # fmt: skip
