"""For all data, methods and places: a cached row is a function of its own example."""

import tempfile
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.types import soft_cross_entropy
from dpmix.data import TensorSource
from dpmix.models.backbones import load_backbone
from dpmix.models.head import LinearHead
from dpmix.pool.pool import PublicPool
from dpmix.training.feature_cache import FeatureCache
from dpmix.views import ViewBuilder, ViewSpec
from dpmix.views.extra_augment import ExtraAugment

CPU = torch.device("cpu")
BACKBONE = load_backbone("scatternet", CPU, input_size=16)
MAPS = load_backbone("scattering-map", CPU, input_size=16)
NAMES = ("a", "b", "c")
SPECS = st.sampled_from([
    ViewSpec("self-aug", k_base=2),
    ViewSpec("mix-self", k_base=2, k_self=2),
    ViewSpec("mix-diff", k_base=1, k_self=2, k_diff=1),
    ViewSpec("mix-diff", k_base=2, k_self=2, k_diff=1, pool_draw="other-class"),
    ViewSpec("mix-self", k_base=2, k_self=2, average="mixed-only"),
    *(ViewSpec("mix-self", k_base=2, k_self=1, extra_augment=k) for k in get_args(ExtraAugment)),
    ViewSpec("mix-diff", k_base=1, k_self=1, k_diff=1, extra_augment="all"),
])  # fmt: skip


def pictures(count, seed):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 3, 12, 12), dtype=np.uint8))


def embedded(spec, pixels, labels, backbone=BACKBONE):
    pool = PublicPool(pictures(6, 77), torch.arange(6) % 3) if spec.public_views else None
    builder = ViewBuilder(spec, 3, backbone.normalization, pool)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(Path(folder), backbone, spec.views + 2, 0, "float32", None, CPU)
        data = TensorSource(pixels, labels, NAMES)
        cached = cache.embed_train(data, builder, lambda done, total: None)
        soft = cached.soft_labels
        # Copies: the folder goes.
        return cached.features.clone(), None if soft is None else soft.clone()


@settings(max_examples=15, deadline=None)
@given(SPECS, st.sampled_from([BACKBONE, MAPS]), st.integers(2, 6), st.data())
def test_removing_an_example_removes_its_row_and_leaves_the_others_to_the_bit(
    spec, backbone, count, data
):
    pixels, labels = pictures(count, data.draw(st.integers(0, 99))), torch.arange(count) % 3
    gone = data.draw(st.integers(0, count - 1))
    rest = torch.tensor([i for i in range(count) if i != gone])
    features, soft = embedded(spec, pixels, labels, backbone)
    fewer, fewer_soft = embedded(spec, pixels[rest], labels[rest], backbone)
    assert torch.equal(features[rest], fewer)
    if soft is not None:
        assert torch.equal(soft[rest], fewer_soft)


@settings(max_examples=12, deadline=None)
@given(SPECS, st.data())
def test_a_row_moves_with_its_example_and_not_with_another(spec, data):
    pixels, labels = pictures(4, 1), torch.arange(4) % 3
    order = torch.tensor(data.draw(st.permutations(range(4))))
    changed = pixels.clone()
    changed[0] = pictures(1, data.draw(st.integers(100, 199)))[0]
    features, _ = embedded(spec, pixels, labels)
    assert torch.equal(embedded(spec, pixels[order], labels[order])[0], features[order])
    other, _ = embedded(spec, changed, labels)
    assert torch.equal(other[1:], features[1:])
    assert not torch.equal(other[0], features[0])


# Few heads, whose engine is probed once each.
HEADS = [LinearHead(5, 3, norm) for norm in ("none", "unit")]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.floats(0.01, 10), st.sampled_from(HEADS), st.integers(0, 999))
def test_a_row_moves_the_clipped_sum_by_at_most_c(count, clip, head, seed):
    generator = torch.Generator().manual_seed(seed)
    torch.nn.init.normal_(head.linear.weight, generator=generator)
    features = 100 * torch.randn(count, 4, 5, generator=generator)
    soft = torch.rand(count, 4, 3, generator=generator).softmax(dim=2)

    def total(rows):
        part = clipped_gradient_sum(head, soft_cross_entropy, features[rows], soft[rows], clip)
        assert part.engine == "linear"
        return torch.cat([g.flatten() for g in part.gradients])

    moved = torch.linalg.vector_norm(total(slice(0, count)) - total(slice(1, count)))
    assert moved <= clip * (1 + 1e-6)
