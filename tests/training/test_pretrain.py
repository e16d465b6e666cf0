"""Pretraining: it learns from the pool, and reads nothing else."""

import numpy as np
import pytest
import torch
from torch import nn

from dpmix.data.normalization import normalization
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.pool import PublicPool
from dpmix.training.pretrain import BATCH, Pretraining
from dpmix.views import ViewBuilder, ViewSpec

L = 3


def pool(labels):
    """Images whose brightness tells the class."""
    rng = np.random.default_rng(0)
    pixels = np.array([40, 130, 220])[labels][:, None, None, None] + rng.normal(
        0, 10, (len(labels), 1, 6, 6)
    )
    return PublicPool(torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels))


def pretraining(public, epochs, seed=0):
    spec = ViewSpec("self-aug", k_base=1, crop_padding=1)
    views = ViewBuilder(spec, L, normalization("half", 1))
    return Pretraining(public, views, epochs, np.random.default_rng(seed))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, L))


def test_it_learns_the_pools_classes_and_counts_its_steps():
    public, seen = pool(np.arange(300) % L), []
    model = network()
    pretraining(public, 60).run(model, lambda *step: seen.append(step))
    steps = 60 * -(-300 // BATCH)
    assert seen == [(i + 1, steps) for i in range(steps)]
    scores = model(normalization("half", 1)(public.images))
    assert (scores.argmax(1) == public.labels).double().mean() > 0.95
    assert all(p.grad is None for p in model.parameters())


def test_images_without_a_class_teach_a_uniform_answer():
    model = network()
    with torch.no_grad():
        model[-1].bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    images = pool(np.arange(300) % L).images
    public = PublicPool(images, torch.full((300,), UNLABELLED))
    pretraining(public, 150).run(model, lambda *_: None)
    shares = model(normalization("half", 1)(images)).softmax(1)
    assert (shares - 1 / L).abs().max() < 0.1


@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_parameters_stay_and_a_seed_repeats_the_rest(frozen):
    weights = []
    for _ in range(2):
        model = network()
        for parameter in list(model.parameters())[:frozen]:
            parameter.requires_grad_(False)
        before = [p.clone() for p in model.parameters()]
        pretraining(pool(np.arange(60) % L), 2, seed=3).run(model, lambda *_: None)
        after = list(model.parameters())
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(old, new) == (place < frozen)
        weights.append(torch.cat([p.flatten() for p in after]))
    assert torch.equal(*weights)
