"""Canaries: what is seen of one in gradient space, and images that nobody else has."""

import math

import numpy as np
import pytest
import torch

from audit_subject import plan, planted
from dpmix.audit.canaries import _WithCanaries, make_patterns
from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError


def test_what_is_seen_of_a_canary_is_noise_and_the_canary_alone():
    """Whatever the others' gradients are: the guesser knows them."""
    included = np.arange(8) % 2 == 0
    run = planted(plan(noise_multiplier=1e-6, steps=3), included, np.arange(0, 4000, 500))
    for _ in range(3):
        run.step()
        assert run.seen() == pytest.approx(included.astype(float), abs=1e-4)


def test_a_canary_is_drawn_at_the_plans_rate_and_takes_part_in_empty_draws():
    run_plan = plan(noise_multiplier=1e-6, sampling_rate=0.3, steps=200)
    run = planted(run_plan, (True, True, False), (0, 1, 2), examples=1)
    seen = np.stack([(run.step(), run.seen())[1] for _ in range(200)]).round()
    assert set(seen[:, :2].flatten()) == {0.0, 1.0} and not seen[:, 2].any()
    drawn = seen[:, :2].mean(axis=0)
    assert abs(drawn - 0.3).max() < 5 * math.sqrt(0.21 / 200)


def test_a_score_is_the_logarithm_of_the_ratio_of_the_densities():
    run = planted(plan(sampling_rate=0.3, noise_multiplier=1.5), [True] * 5, np.arange(5))
    run.step()
    seen = run.seen()
    out = np.exp(-(seen**2) / 4.5)
    expected = np.log((0.7 * out + 0.3 * np.exp(-((seen - 1) ** 2) / 4.5)) / out)
    assert run.scores() == pytest.approx(expected)


def test_joined_examples_are_refused():
    with pytest.raises(DpmixError, match="can't audit method microbatch-mixup"):
        planted(plan(sensitivity_multiplier=2), method="microbatch-mixup")


def source(count, seed=0, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return TensorSource(pixels, torch.arange(count) % 3, ("a", "b", "c"))


def test_patterns_are_of_the_datas_shape_and_differ():
    made = make_patterns(source(3, shape=(3, 9, 7)), 50, np.random.default_rng(0))
    assert made.pixels.shape == (50, 3, 9, 7) and len(made.pixels.unique(dim=0)) == 50
    assert set(made.labels.tolist()) == {0, 1, 2}


def test_they_come_after_the_data():
    base, added = source(5), source(4, seed=1)
    both = _WithCanaries(base, added)
    assert len(both) == 9 and both.image_shape == base.image_shape
    assert both.labels.tolist() == [*base.labels.tolist(), *added.labels.tolist()]
    index = torch.tensor([8, 0, 4, 5, 0])
    expected = torch.cat([base.pixels, added.pixels])[index]
    assert torch.equal(both.images(index), expected)
