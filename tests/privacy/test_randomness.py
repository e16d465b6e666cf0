"""Streams of random draws: apart from each other, and from too few bits."""

import itertools

import numpy as np
import pytest

from dpmix.privacy.randomness import Randomness

USES = ("sampling", "views", "noise")


def numbers(randomness, use, step=0):
    return getattr(randomness.step(step), use).standard_normal(1000)


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


@pytest.mark.parametrize("seed", [None, 3])
def test_only_a_seed_makes_a_run_repeatable(seed):
    assert Randomness(seed).seeded == (seed is not None)
