"""What the sensitivity of C rests on: a view set reads its own example, its draws and public data.

`same` is bitwise: not a single rounding of example i's views may depend on example j.
"""

from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dpmix.data.normalization import normalization
from dpmix.pool.pool import PublicPool
from dpmix.views import METHODS, ViewBuilder, ViewSpec
from dpmix.views.draws import ViewDraws
from dpmix.views.extra_augment import ExtraAugment

L = 3
KINDS = get_args(ExtraAugment)


@dataclass(frozen=True)
class World:
    """A private data set, a builder and random draws."""

    build: ViewBuilder
    images: Tensor
    labels: Tensor
    draws: ViewDraws

    @property
    def members(self) -> int:
        return self.build.spec.examples_per_group

    def views(self, images=None, labels=None, draws=None):
        given = (images, labels, draws)
        own = (self.images, self.labels, self.draws)
        return self.build.build(*(o if g is None else g for g, o in zip(given, own, strict=True)))


@st.composite
def worlds(draw, methods=METHODS, kinds=KINDS):
    method = draw(st.sampled_from(methods))
    channels = draw(st.sampled_from([1, 3]))
    height, width = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    spec = ViewSpec(
        method,
        k_base=draw(st.integers(2, 4)),
        k_self=draw(st.integers(1, 4)),
        k_diff=draw(st.integers(1, 2)),
        mixup_alpha=draw(st.sampled_from([0.2, 1.0])),
        crop_padding=draw(st.integers(0, min(height, width) - 1)),
        flip=draw(st.booleans()),
        extra_augment="none" if method == "none" else draw(st.sampled_from(kinds)),
        average=draw(st.sampled_from(["all", "mixed-only"]))
        if method not in ("none", "self-aug")
        else "all",
        pool_draw=draw(st.sampled_from(["uniform", "same-class", "other-class"])),
    )
    if method == "mix-diff" and spec.average == "all" and draw(st.booleans()):
        spec = replace(spec, pool_role="extra")
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def labelled(count):
        shape = (count, channels, height, width)
        pixels = torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))
        return pixels, torch.from_numpy(rng.integers(0, L, count))

    pool = None
    if method == "mix-diff":
        pool = PublicPool(labelled(2 * L)[0], torch.arange(2 * L) % L)
    build = ViewBuilder(spec, L, normalization("half", channels), pool)
    groups = draw(st.integers(1, 5))
    images, labels = labelled(groups * spec.examples_per_group)
    return World(build, images, labels, build.draw_views(groups, rng))


def same(one, other, groups):
    return torch.equal(one.views[groups], other.views[groups]) and torch.equal(
        one.labels[groups], other.labels[groups]
    )


@settings(max_examples=150, deadline=None)
@given(worlds(), st.data())
def test_changing_an_example_leaves_all_views_but_its_own_groups_as_they_were(world, data):
    j = data.draw(st.integers(0, len(world.images) - 1))
    fill = data.draw(st.sampled_from(["noise", 0, 255]))
    images, labels = world.images.clone(), world.labels.clone()
    if fill == "noise":
        images[j] = torch.from_numpy(
            np.random.default_rng(1).integers(0, 256, images[j].shape, dtype=np.uint8)
        )
    else:
        images[j] = fill
    # With draws by class, its label decides which public images it meets, and only it.
    labels[j] = (labels[j] + 1) % L
    before, after = world.views(), world.views(images, labels)
    others = torch.arange(len(before.views)) != j // world.members
    assert same(before, after, others)
    # The test can tell: the change does reach its own group (a mixture may leave an entry out).
    if world.build.spec.average == "all":
        assert not torch.equal(before.labels[~others], after.labels[~others])


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_changing_a_groups_draws_leaves_the_views_of_the_others_as_they_were(world, data):
    g = data.draw(st.integers(0, len(world.draws.top) - 1))
    fresh = world.build.draw_views(len(world.draws.top), np.random.default_rng(2))
    stacked = ViewDraws(
        *(torch.cat([getattr(world.draws, name), getattr(fresh, name)]) for name in vars(fresh))
    )
    rows = torch.arange(len(fresh.top))
    rows[g] += len(rows)
    before, after = world.views(), world.views(draws=stacked.rows(rows))
    assert same(before, after, torch.arange(len(rows)) != g)


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_permuting_examples_with_their_draws_permutes_the_views(world, data):
    groups = len(world.draws.top)
    order = torch.tensor(data.draw(st.permutations(range(groups))))
    members = (order[:, None] * world.members + torch.arange(world.members)).flatten()
    permuted = world.views(world.images[members], world.labels[members], world.draws.rows(order))
    before = world.views()
    assert torch.equal(permuted.views, before.views[order])
    assert torch.equal(permuted.labels, before.labels[order])


@settings(max_examples=100, deadline=None)
@given(worlds(), st.data())
def test_removing_a_group_with_its_draws_leaves_the_views_of_the_others_as_they_were(world, data):
    groups = len(world.draws.top)
    gone = data.draw(st.integers(0, groups - 1))
    kept = torch.arange(groups)[torch.arange(groups) != gone]
    members = (kept[:, None] * world.members + torch.arange(world.members)).flatten()
    without = world.views(world.images[members], world.labels[members], world.draws.rows(kept))
    before = world.views()
    assert torch.equal(without.views, before.views[kept])
    assert torch.equal(without.labels, before.labels[kept])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_extra_augmentation_lets_an_example_move_anothers_views(kind, data):
    methods = [method for method in METHODS if method != "none"]
    world = data.draw(worlds(methods, [kind]))
    j = data.draw(st.integers(0, len(world.images) - 1))
    images = world.images.clone()
    images[j] = data.draw(st.sampled_from([0, 127, 255]))
    before, after = world.views(), world.views(images)
    others = torch.arange(len(before.views)) != j // world.members
    assert same(before, after, others)
    # Alone, with its own random draws, a group has the views that it has in company.
    for group in others.nonzero():
        members = group * world.members + torch.arange(world.members)
        alone = world.views(images[members], world.labels[members], world.draws.rows(group))
        assert torch.equal(alone.views, before.views[group])
