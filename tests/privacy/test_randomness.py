"""Streams of random draws: independent, of enough bits, and with the right law."""

import itertools

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from dpmix.privacy import randomness as randomness_module
from dpmix.privacy.randomness import Randomness, SecureStream, _words

N = 400_000
USES = ("sampling", "views", "noise")


def numbers(randomness, use, step=0):
    return getattr(randomness.step(step), use).random(1000)


def test_each_use_step_and_process_has_a_stream_of_its_own():
    drawn = [
        numbers(Randomness(1, rank), use, step)
        for use, step, rank in itertools.product(USES, (0, 1, 256), (0, 1))
    ]
    correlations = np.corrcoef(drawn)[np.triu_indices(len(drawn), 1)]
    assert np.abs(correlations).max() < 0.16


def test_a_seed_repeats_every_stream_and_none_differs_each_time():
    for use in USES:
        assert (numbers(Randomness(7), use) == numbers(Randomness(7), use)).all()
        assert (numbers(Randomness(None), use) != numbers(Randomness(None), use)).all()
    assert Randomness(7).model == Randomness(7).model
    assert (Randomness(7).public.random(9) == Randomness(7).public.random(9)).all()
    assert Randomness(7).step(3).model == Randomness(7).step(3).model != Randomness(7).step(4).model


def test_more_than_32_bits_of_the_seed_count():
    # torch.Generator on the CPU keeps the lower 32: its noise could be found by trying them all.
    one, other = Randomness(5), Randomness(5 + 2**32)
    assert (numbers(one, "noise") != numbers(other, "noise")).all()


def test_drawing_more_views_moves_neither_noise_nor_sampling():
    one, other = Randomness(3).step(0), Randomness(3).step(0)
    other.views.random(10_000)
    for use in ("noise", "sampling"):
        assert (getattr(one, use).random(100) == getattr(other, use).random(100)).all()


def test_normal_numbers_are_normal_in_the_middle_and_in_the_tails():
    drawn = torch.cat(SecureStream().normal_pairs(N // 2)).numpy()
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


def test_neighbours_calls_and_streams_are_independent():
    stream = SecureStream()
    drawn = stream.random(N)
    pairs = [
        (drawn[:-1], drawn[1:]),
        (drawn, stream.random(N)),
        (drawn, SecureStream().random(N)),
        (drawn[: N // 2], drawn[N // 2 :]),
    ]
    for one, other in pairs:
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / np.sqrt(len(one))


def test_bits_are_those_of_aes_under_the_system_s_key(monkeypatch):
    """NIST SP 800-38A, F.5.5, has the key; a counter from zero is the cipher's own."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    monkeypatch.setattr("os.urandom", lambda count: key[:count])
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    counters = b"".join(i.to_bytes(16, "big") for i in range(3))
    assert _words(6).numpy().tobytes() == block.update(counters)


@pytest.mark.parametrize("word", [0, -(1 << 63), -1, (1 << 53) - 1, 1 << 53])
def test_the_least_and_the_greatest_words_give_finite_numbers(word, monkeypatch):
    monkeypatch.setattr(
        randomness_module, "_words", lambda count: torch.full((count,), word, dtype=torch.int64)
    )
    normal, uniform = torch.cat(SecureStream().normal_pairs(1)), SecureStream().random(1)
    assert normal.isfinite().all() and normal.abs().max() < 14 and 0 <= uniform < 1


def test_a_run_without_a_seed_draws_examples_and_noise_from_it():
    draws, seeded = Randomness(None).step(0), Randomness(3).step(0)
    assert not Randomness(None).seeded and Randomness(3).seeded
    assert isinstance(draws.sampling, SecureStream) and isinstance(draws.noise, SecureStream)
    assert isinstance(seeded.noise, np.random.Generator)
