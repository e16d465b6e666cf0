"""Random draws of the operating system: their law, and that none comes twice."""

import numpy as np
import pytest
from scipy import stats

from dpmix.privacy.randomness import Randomness, SecureStream

N = 400_000


def test_normal_numbers_are_normal_in_the_middle_and_in_the_tails():
    drawn = SecureStream().standard_normal(N)
    assert stats.kstest(drawn, stats.norm.cdf).pvalue > 1e-4
    for bound in (2.0, 3.0, 4.0):
        for tail in (drawn > bound, drawn < -bound):
            expected = N * stats.norm.sf(bound)
            assert abs(tail.sum() - expected) < 5 * np.sqrt(expected) + 1
    assert abs(stats.kurtosis(drawn)) < 6 * np.sqrt(24 / N)


def test_uniform_numbers_are_uniform_and_below_one():
    drawn = SecureStream().random(N)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert stats.kstest(drawn, stats.uniform.cdf).pvalue > 1e-4


def test_neighbours_blocks_and_streams_are_independent():
    stream = SecureStream()
    drawn = stream.standard_normal(N)
    pairs = [
        (drawn[:-1], drawn[1:]),
        (drawn[: 1 << 17], drawn[1 << 17 : 1 << 18]),  # blocks that are drawn one after another
        (drawn, stream.standard_normal(N)),
        (drawn, SecureStream().standard_normal(N)),
        (drawn[:-1] ** 2, drawn[1:] ** 2),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(one))


@pytest.mark.parametrize("words", [0, -1, 1 << 63, (1 << 64) - 1, (1 << 53) - 1, 1 << 53])
def test_the_least_and_the_greatest_words_give_finite_numbers(words, monkeypatch):
    raw = (words % (1 << 64)).to_bytes(8, "little")
    monkeypatch.setattr("os.urandom", lambda count: raw * (count // 8))
    (normal,), (uniform,) = SecureStream().standard_normal(1), SecureStream().random(1)
    assert np.isfinite(normal) and abs(normal) < 14 and 0 <= uniform < 1


@pytest.mark.parametrize("size", [0, 1, (1 << 17) + 1])
def test_as_many_as_asked_for(size):
    assert len(SecureStream().standard_normal(size)) == len(SecureStream().random(size)) == size


def test_a_run_without_a_seed_draws_examples_and_noise_from_it():
    draws, seeded = Randomness(None).step(0), Randomness(3).step(0)
    assert isinstance(draws.sampling, SecureStream) and isinstance(draws.noise, SecureStream)
    assert isinstance(seeded.noise, np.random.Generator)
