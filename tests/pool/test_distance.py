"""Distances against known Gaussians and against scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from dpmix.pool.score import Moments, distances

L, K = 4, 3
CENTRES = 0.3 * torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, 0, 0]], dtype=torch.float64)


def sample(count, seed, shift=0.0, spread=0.05, centres=CENTRES):
    rng = np.random.default_rng(seed)
    labels = torch.arange(count) % L
    noise = torch.from_numpy(rng.standard_normal((count, K)) * spread)
    return centres[labels] + shift + noise, labels


def moments(*args, **kwargs):
    return Moments.of(*sample(*args, **kwargs), L)


def test_two_samples_of_the_same_images_are_at_no_distance():
    found = distances(moments(4000, 0), moments(4000, 1), 0.0)
    assert found.class_ratio < 0.02
    assert found.frechet_ratio < 0.01
    assert found.matched == 1
    assert set(found.by_class) == set(range(L))


def test_a_shift_is_measured_in_units_of_the_distance_between_classes():
    shift = 0.1
    found = distances(moments(40_000, 0), moments(40_000, 1, shift=shift), 0.0)
    pairs = torch.cdist(CENTRES, CENTRES).square()
    between = math.sqrt(float(pairs.sum()) / (L * (L - 1)))
    assert found.class_ratio == pytest.approx(shift * math.sqrt(K) / between, rel=0.02)
    assert found.by_class[0] == pytest.approx(shift * math.sqrt(K), rel=0.02)


def test_wrong_labels_are_seen_where_the_images_as_a_whole_agree():
    images, labels = sample(4000, 1)
    swapped = Moments.of(images, (labels + 1) % L, L)
    found = distances(moments(4000, 0), swapped, 0.0)
    assert found.matched == 0
    assert found.class_ratio == pytest.approx(1, abs=0.15)
    assert found.frechet_ratio < 0.01


def test_the_frechet_distance_equals_scipys():
    (a, la), (b, lb) = sample(3000, 0), sample(3000, 1, shift=0.05, spread=0.15)
    found = distances(Moments.of(a, la, L), Moments.of(b, lb, L), 0.0)
    s1, s2 = np.cov(a.numpy().T, bias=True), np.cov(b.numpy().T, bias=True)
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum().item()
    expected = gap + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2)))
    assert found.frechet_ratio == pytest.approx(expected / np.trace(s1), rel=1e-6)


def test_noise_and_small_samples_do_not_bias_the_distance():
    pool = moments(200, 0)
    # Root mean square over many releases of twins: without the corrections it would be far from 0.
    rng, sigma, squares = np.random.default_rng(0), 8.0, []
    for seed in range(60):
        found = distances(pool, moments(2000, 100 + seed).released(sigma, rng), sigma)
        squares.append(found.class_ratio**2)
    between = float(torch.cdist(CENTRES, CENTRES).square().sum()) / (L * (L - 1))
    uncorrected = K * (sigma / 0.8 / 500) ** 2 / between
    assert np.mean(squares) < 0.7 * uncorrected  # 0.43 times it, with a spread of 0.05
    far = [
        distances(pool, moments(2000, 300 + s, shift=0.1).released(sigma, rng), sigma).class_ratio
        for s in range(30)
    ]
    exact = distances(moments(40_000, 0), moments(40_000, 1, shift=0.1), 0.0).class_ratio
    assert np.mean(far) == pytest.approx(exact, rel=0.05)


def test_a_pool_whose_classes_do_not_differ_is_far_whatever_the_private_data():
    found = distances(
        moments(200, 0, centres=0 * CENTRES, spread=0.01), moments(4000, 1), 0.0
    )  # fmt: skip
    assert found.class_ratio > 5


def test_classes_that_cannot_be_counted_are_left_out():
    images, labels = sample(4000, 1)
    kept = (labels != 3) | (torch.arange(4000) < 8)
    private = Moments.of(images[kept], labels[kept], L)
    assert set(distances(moments(4000, 0), private, 0.0).by_class) == {0, 1, 2}
    assert set(distances(moments(4000, 0), private, 3.0).by_class) == {0, 1, 2}
    few = Moments.of(images[labels != 0], labels[labels != 0], L)
    assert set(distances(few, moments(4000, 2), 0.0).by_class) == {1, 2, 3}


def test_nothing_to_compare_is_said_as_nan_and_not_as_near():
    images, labels = sample(4000, 1)
    one = Moments.of(images[labels == 0], labels[labels == 0], L)
    found = distances(moments(4000, 0), one, 0.0)
    assert math.isnan(found.class_ratio)
    none = distances(moments(4000, 0), moments(4000, 1).scaled(torch.zeros(L).double()), 5.0)
    assert math.isnan(none.class_ratio) and none.by_class == {} and none.matched == 0
