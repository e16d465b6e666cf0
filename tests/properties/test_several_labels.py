"""Several labels an image, some unknown: the clipped sum of every method and engine.

Brute force: the loss written out label by label, one view at a time, in float64.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dpmix.clipping.engine import choose_engine, sum_by
from dpmix.clipping.types import multi_label_loss
from dpmix.data.normalization import normalization
from dpmix.data.persons import Persons
from dpmix.data.source import TensorSource
from dpmix.models.head import LinearHead
from dpmix.pool.pool import PublicPool
from dpmix.views import ViewBuilder, ViewSpec

L, SHAPE = 3, (1, 6, 5)
ENGINES = ("examplewise", "vectorized", "linear", "bookkeeping")
METHODS = ("none", "self-aug", "mix-self", "mix-diff", "microbatch-mixup")
NAMES = ("cough", "fever", "rash")


def network(engine, seed):
    torch.manual_seed(seed)
    layers = (nn.Linear(30, L),)
    if engine != "linear":
        layers = (nn.Linear(30, 6), nn.Tanh(), nn.Linear(6, L))
    return nn.Sequential(nn.Flatten(), *layers).double()


def by_hand(logits, labels):
    """One view's loss: the mean over its known labels, as a sum of logarithms."""
    known = [(z, t) for z, t in zip(logits, labels.tolist(), strict=True) if not math.isnan(t)]
    parts = [
        -t * torch.log(torch.sigmoid(z)) - (1 - t) * torch.log(torch.sigmoid(-z)) for z, t in known
    ]
    return sum(parts) / len(parts) if parts else logits.sum() * 0


def brute_force(net, views, labels, c):
    """The sum of the clipped mean gradients, [P]."""
    total = 0
    for unit, rows in zip(views, labels, strict=True):
        loss = sum(by_hand(net(v[None])[0], row) for v, row in zip(unit, rows, strict=True))
        grads = torch.autograd.grad(
            loss / len(unit), list(net.parameters()), allow_unused=True, materialize_grads=True
        )
        one = torch.cat([g.flatten() for g in grads])
        total = total + one * min(1.0, c / max(float(one.norm()), 1e-300))
    return total


def flat(result):
    return torch.cat([g.flatten() for g in result.gradients])


@st.composite
def view_sets(draw):
    """Views of some images, and of them without one image or pair, all draws the same."""
    spec = ViewSpec(
        draw(st.sampled_from(METHODS)),
        k_base=draw(st.integers(2, 3)), k_self=draw(st.integers(1, 3)), k_diff=1, crop_padding=2,
    )  # fmt: skip
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    members = spec.examples_per_group
    groups = draw(st.integers(1, 4))
    images = torch.from_numpy(rng.integers(0, 256, (groups * members, *SHAPE)).astype(np.uint8))
    labels = torch.from_numpy(rng.integers(-1, 2, (groups * members, L)))
    pool = None
    if spec.method == "mix-diff":
        pixels = torch.from_numpy(rng.integers(0, 256, (4, *SHAPE)).astype(np.uint8))
        pool = PublicPool(pixels, torch.tensor([0, 1, 2, -1]))
    build = ViewBuilder(spec, L, normalization("half", 1), pool)
    draws = build.draw_views(groups, rng)
    whole = build.build(images, labels, draws)
    kept = torch.arange(groups) != draw(st.integers(0, groups - 1))
    own = kept.repeat_interleave(members)
    rest = draws.rows(kept.nonzero().flatten())
    return whole, build.build(images[own], labels[own], rest)


@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=30, deadline=None)
@given(pair=view_sets(), seed=st.integers(0, 2**31), share=st.floats(0.1, 3))
def test_the_sum_is_that_of_brute_force_and_one_unit_moves_it_by_c(engine, pair, seed, share):
    net = network(engine, seed)
    views, labels = pair[0].views.double(), pair[0].labels.double()
    free = sum_by("examplewise", net, multi_label_loss, views, labels, math.inf)
    c = share * max(float(free.norms.median()), 1e-6)
    with_it, without = (
        flat(sum_by(engine, net, multi_label_loss, v.views.double(), v.labels.double(), c))
        for v in pair
    )
    assert (with_it - brute_force(net, views, labels, c)).norm() <= 1e-9 * c
    assert (with_it - without).norm() <= c * (1 + 1e-9)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_label_has_no_influence(engine):
    net = network(engine, 0)
    views = torch.randn(2, 1, 30, dtype=torch.float64).view(2, 1, *SHAPE)
    labels = torch.tensor([[[1.0, 0.0, torch.nan]], [[torch.nan] * 3]]).double()
    found = sum_by(engine, net, multi_label_loss, views, labels, 100.0)
    assert found.norms[1] == 0  # nothing is known of the second image
    assert found.losses[1] == 0
    last = found.gradients[-2]  # the last layer's weight, [L, D]
    assert (last[2] == 0).all()
    assert (last[:2] != 0).any(dim=1).all()


def test_auto_takes_the_linear_engine_for_a_head():
    head = LinearHead(16, L, "unit", 10.0)
    assert choose_engine("auto", head, multi_label_loss, (16,), 4).name == "linear"


def test_persons_with_labels_that_are_known_for_some_images():
    """Views of a person's images keep each image's labels; a mixture knows what both know."""
    pixels = torch.zeros(4, *SHAPE, dtype=torch.uint8)
    labels = torch.tensor([[1, 0, -1], [0, -1, -1], [1, 1, 1], [0, 0, 0]])
    source = TensorSource(pixels, labels, NAMES, persons=Persons.named(["a", "a", "b", "b"]))
    spec = ViewSpec("mix-self", k_base=2, k_self=3, crop_padding=2, images_per_person=2)
    build = ViewBuilder(spec, L, normalization("half", 1))
    made = build.sample(source, torch.tensor([0]), np.random.default_rng(0), torch.device("cpu"))
    rows = made.labels[0]
    assert rows[:2, 0].sort().values.tolist() == [0, 1]
    assert rows[:2, 1].isnan().sum() == 1
    assert rows[:, 2].isnan().all()
    assert rows[2:, 1].isnan().all()
    assert ((rows[2:, 0] > 0) & (rows[2:, 0] < 1)).all()
