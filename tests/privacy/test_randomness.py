"""Streams of coins: apart from each other, and from too few bits."""

import numpy as np

from dpmix.privacy.randomness import Randomness


def numbers(streams, name):
    return getattr(streams, name).standard_normal(1000)


def test_each_use_has_a_stream_of_its_own():
    streams = Randomness.create(1)
    drawn = [numbers(streams, name) for name in ("sampling", "views", "noise")]
    correlations = np.corrcoef(drawn)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 0.15


def test_a_seed_repeats_every_stream_and_none_differs_each_time():
    for name in ("sampling", "views", "noise"):
        first, again = (numbers(Randomness.create(7), name) for _ in range(2))
        assert (first == again).all()
        first, again = (numbers(Randomness.create(None), name) for _ in range(2))
        assert (first != again).all()
    assert Randomness.create(7).model == Randomness.create(7).model


def test_more_than_32_bits_of_the_seed_count():
    # torch.Generator on the CPU keeps the lower 32: its noise could be found by trying them all.
    one, other = Randomness.create(5), Randomness.create(5 + 2**32)
    assert (numbers(one, "noise") != numbers(other, "noise")).all()


def test_drawing_more_views_moves_neither_noise_nor_sampling():
    one, other = Randomness.create(3), Randomness.create(3)
    other.views.random(10_000)
    assert (numbers(one, "noise") == numbers(other, "noise")).all()
    assert (numbers(one, "sampling") == numbers(other, "sampling")).all()
