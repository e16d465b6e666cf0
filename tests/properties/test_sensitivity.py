"""One example moves the sum of clipped gradients by at most C, whatever the data and the model."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dpmix.clipping.engine import sum_by
from dpmix.clipping.types import soft_cross_entropy
from dpmix.data.normalization import normalization
from dpmix.pool.pool import PublicPool
from dpmix.views import ViewBuilder, ViewSet, ViewSpec
from dpmix.views.mixup import random_matching

L = 3
SHAPE = (1, 6, 5)
SINGLE = ("none", "self-aug", "mix-self", "mix-diff")
ENGINES = ("examplewise", "vectorized", "linear", "bookkeeping")
# float64 shows the bound itself; float32 also rounds each product and each of up to 6 sums.
SLACK = {torch.float64: 1e-9, torch.float32: 1e-6}


LAYERS = {
    "head": lambda: (nn.Flatten(), nn.Linear(30, L)),
    "mlp": lambda: (nn.Flatten(), nn.Linear(30, 6), nn.ReLU(), nn.Linear(6, L)),
    "conv": lambda: (nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(2),
                     nn.Flatten(), nn.Linear(16, L)),
}  # fmt: skip


def model(kind, seed, dtype=torch.float64, scale=1.0, engine="examplewise"):
    torch.manual_seed(seed)
    net = nn.Sequential(*LAYERS["head" if engine == "linear" else kind]()).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    return net


def data(kind, count, rng):
    shape = (count, *SHAPE)
    pixels = {
        "noise": lambda: rng.integers(0, 256, shape),
        "black": lambda: np.zeros(shape),
        "white": lambda: np.full(shape, 255),
        "extreme": lambda: rng.integers(0, 2, shape) * 255,
    }[kind]()
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(rng.integers(0, L, count))


def builder(spec, rng):
    pool = None
    if spec.method == "mix-diff":
        pool = PublicPool(data("noise", 2 * L, rng)[0], torch.arange(2 * L) % L)
    return ViewBuilder(spec, L, normalization("half", 1), pool)


def total(net, view_set, max_grad_norm, engine="examplewise", chunk=None):
    dtype = next(net.parameters()).dtype
    views, labels = view_set.views.to(dtype), view_set.labels.to(dtype)
    # The engine itself: models this small would often be given to `examplewise`.
    return sum_by(engine, net, soft_cross_entropy, views, labels, max_grad_norm, chunk)


def flat(result):
    return torch.cat([gradient.flatten() for gradient in result.gradients]).double()


@st.composite
def neighbours(draw):
    """Views of a data set, and of it without one example, all other random draws the same."""
    method = draw(st.sampled_from(SINGLE))
    average = st.sampled_from(["all", "mixed-only"])
    spec = ViewSpec(
        method,
        k_base=draw(st.integers(1, 4)),
        k_self=draw(st.integers(1, 4)),
        k_diff=draw(st.integers(1, 2)),
        crop_padding=draw(st.integers(0, 4)),
        average=draw(average) if method.startswith("mix") else "all",
        pool_draw=draw(st.sampled_from(["uniform", "same-class", "other-class"])),
    )
    if method == "mix-diff" and spec.average == "all" and draw(st.booleans()):
        spec = replace(spec, pool_role="extra")
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 6))
    images, labels = data(draw(st.sampled_from(["noise", "black", "white", "extreme"])), count, rng)
    build = builder(spec, rng)
    draws = build.draw_views(count, rng)
    kept = torch.arange(count) != draw(st.integers(0, count - 1))
    rest = torch.arange(count)[kept]
    return build.build(images, labels, draws), build.build(
        images[rest], labels[rest], draws.rows(rest)
    )


clipping_norms = st.floats(-3, 3).map(lambda exponent: 10.0**exponent)
kinds = st.sampled_from(["mlp", "conv"])
seeds = st.integers(0, 2**31)


def assert_bounded(pair, net, max_grad_norm, engine):
    with_it, without = (flat(total(net, views, max_grad_norm, engine)) for views in pair)
    assert torch.isfinite(with_it).all()
    dtype = next(net.parameters()).dtype
    slack = SLACK[dtype]
    if engine == "bookkeeping" and dtype == torch.float32:
        slack = 1e-4  # it adds in float32
    assert (with_it - without).norm() <= max_grad_norm * (1 + slack)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=40, deadline=None)
@given(pair=neighbours(), kind=kinds, seed=seeds, max_grad_norm=clipping_norms)
def test_one_example_moves_the_sum_by_at_most_c(engine, dtype, pair, kind, seed, max_grad_norm):
    assert_bounded(pair, model(kind, seed, dtype, engine=engine), max_grad_norm, engine)


EXTREME_SCALES = {
    torch.float64: [1e-200, 1e-20, 1e3, 1e10, 1e60, 1e150, 1e300],
    torch.float32: [1e-30, 1e-10, 1e3, 1e8, 1e18, 1e30, 1e37],
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", ENGINES)
@settings(max_examples=40, deadline=None)
@given(pair=neighbours(), kind=kinds, seed=seeds, max_grad_norm=clipping_norms, which=st.data())
def test_one_example_moves_the_sum_by_at_most_c_at_any_size_of_the_weights(
    engine, dtype, pair, kind, seed, max_grad_norm, which
):
    scale = which.draw(st.sampled_from(EXTREME_SCALES[dtype]))
    assert_bounded(pair, model(kind, seed, dtype, scale, engine), max_grad_norm, engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_example_among_many_equal_ones_moves_the_sum_by_at_most_c(engine):
    """Rounding of the sum grows with its length: a float32 sum of these is 9e-6 off."""
    build = builder(ViewSpec("none"), None)
    images = torch.full((400, *SHAPE), 200, dtype=torch.uint8)
    labels = torch.zeros(400, dtype=torch.int64)
    views = build.build(images, labels, build.draw_views(400, np.random.default_rng(0)))
    fewer = ViewSet(views.views[1:], views.labels[1:])
    assert_bounded((views, fewer), model("mlp", 0, torch.float32, engine=engine), 0.1, engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("method", SINGLE)
def test_the_bound_is_reached_by_a_gradient_longer_than_c(engine, kind, method):
    rng = np.random.default_rng(1)
    build = builder(ViewSpec(method, k_base=2, k_self=2, k_diff=1), rng)
    images, labels = data("noise", 3, rng)
    draws = build.draw_views(3, rng)
    pair = (
        build.build(images, labels, draws),
        build.build(images[:2], labels[:2], draws.rows(slice(0, 2))),
    )
    net = model(kind, 1, engine=engine)
    with_it, without = (flat(total(net, views, 1e-3, engine)) for views in pair)
    assert (with_it - without).norm() == pytest.approx(1e-3, rel=1e-9)


def mean_gradients(net, view_set):
    """Each group's gradient of the mean loss over its views, by an ordinary backward pass."""
    rows = []
    for views, labels in zip(view_set.views.double(), view_set.labels.double(), strict=True):
        net.zero_grad()
        soft_cross_entropy(net(views), labels).mean().backward()
        rows.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    return torch.stack(rows)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chunk", [None, 1, 2])
@settings(max_examples=12, deadline=None)
@given(pair=neighbours(), kind=kinds, seed=seeds, share=st.floats(0.1, 3))
def test_the_sum_is_that_of_the_clipped_mean_gradients(engine, chunk, pair, kind, seed, share):
    view_set, _ = pair
    net = model(kind, seed, engine=engine)
    rows = mean_gradients(net, view_set)
    norms = rows.norm(dim=1)
    c = share * norms.median().item()  # some are clipped, some are not
    expected = (rows * (c / norms).clamp(max=1)[:, None]).sum(0)
    result = total(net, view_set, c, engine, chunk)
    assert (flat(result) - expected).norm() <= 1e-9 * c
    assert torch.allclose(result.norms.double(), norms, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_example_whose_gradient_is_not_finite_moves_nothing_and_is_counted(engine, dtype):
    # Black pixels are 0 under `unit`, so only the white example meets the enormous weights.
    net = nn.Sequential(nn.Flatten(), nn.Linear(30, L)).to(dtype)
    with torch.no_grad():
        net[1].weight.fill_(torch.finfo(dtype).max)
    images = torch.zeros(3, *SHAPE, dtype=torch.uint8)
    images[1] = 255
    labels = torch.tensor([0, 1, 2])
    build = ViewBuilder(ViewSpec("self-aug", k_base=2), L, normalization("unit", 1))
    draws = build.draw_views(3, np.random.default_rng(0))
    kept = torch.tensor([0, 2])
    with_it = total(net, build.build(images, labels, draws), 1.0, engine)
    without = total(net, build.build(images[kept], labels[kept], draws.rows(kept)), 1.0, engine)
    assert with_it.norms.isfinite().tolist() == [True, False, True]
    assert flat(without).norm() > 0
    # A matrix product may add the same rows in another order beside rows of zeros.
    torch.testing.assert_close(flat(with_it), flat(without), rtol=0, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("max_grad_norm", [1e-6, 1e-3, 1.0])
def test_a_gradient_near_the_end_of_float32_is_still_clipped_to_c(engine, max_grad_norm):
    # The factor C / norm itself lies below float32's smallest normal number here.
    worst = 0.0
    for size in np.geomspace(1e34, 2e38, 30):
        net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
        views = torch.full((1, 1, 1, 2, 2), float(size))
        labels = torch.tensor([[[1.0, 0.0]]])
        with torch.no_grad():
            net[1].weight.zero_()
        result = sum_by(engine, net, soft_cross_entropy, views, labels, max_grad_norm)
        worst = max(worst, flat(result).norm().item())
    assert worst <= max_grad_norm * (1 + 1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_one_example_of_naive_mixup_moves_the_sum_by_more_than_c_and_at_most_2c(engine):
    """The reason for DP-Mix: a pair's gradient reads two private examples."""
    build = builder(ViewSpec("microbatch-mixup", k_base=2, k_self=3, crop_padding=1), None)
    farthest, c = 0.0, 1e-3
    for seed in range(20):
        rng = np.random.default_rng(seed)
        images, labels = data("noise", 3, rng)
        net = model("mlp", seed, engine=engine)
        draws = build.draw_views(1, rng)
        sums = []
        for drawn in (torch.tensor([0, 1]), torch.tensor([0, 1, 2])):
            paired = random_matching(drawn, rng)
            view_set = build.build(images[paired], labels[paired], draws)
            sums.append(flat(total(net, view_set, c, engine)))
        moved = (sums[0] - sums[1]).norm().item()
        assert moved <= 2 * c * (1 + 1e-9)
        farthest = max(farthest, moved)
    assert farthest > 1.2 * c


@settings(max_examples=25, deadline=None)
@given(seed=seeds, kind=kinds, groups=st.integers(0, 2), max_grad_norm=clipping_norms)
def test_replacing_one_pair_of_naive_mixup_moves_the_sum_by_at_most_2c_and_adding_one_by_c(
    seed, kind, groups, max_grad_norm
):
    """The two cases of the proof in `views/mixup.py`, with the groups' random draws kept."""
    rng = np.random.default_rng(seed)
    build = builder(ViewSpec("microbatch-mixup", k_base=3, k_self=2, crop_padding=1), None)
    images, labels = data("noise", 2 * groups + 3, rng)
    draws = build.draw_views(groups + 1, rng)
    common = list(range(2 * groups))
    z, b, a = 2 * groups, 2 * groups + 1, 2 * groups + 2

    def summed(members):
        members = torch.tensor(members, dtype=torch.int64)
        rows = draws.rows(slice(0, len(members) // 2))
        views = build.build(images[members], labels[members], rows)
        return flat(total(model(kind, seed), views, max_grad_norm))

    without, replaced, shorter = summed([*common, a, b]), summed([*common, a, z]), summed(common)
    assert (without - replaced).norm() <= 2 * max_grad_norm * (1 + 1e-9)
    assert (shorter - replaced).norm() <= max_grad_norm * (1 + 1e-9)
