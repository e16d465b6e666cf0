"""The laws of the random draws, tested on large draws from fixed seeds."""

from dataclasses import fields, replace
from hashlib import sha256

import numpy as np
import pytest
import torch
from scipy import stats

from dpmix.views.draws import PUBLIC_BITS, ViewDraws, draw_views
from dpmix.views.extra_augment import DRAWS_PER_VIEW
from dpmix.views.spec import METHODS, ViewSpec

# Seeds are fixed, so a failure is a change of law and not bad luck.
LEAST_P = 1e-3
AS_IT_WAS = {
    "none": "6671b4eece49dc1b",
    "self-aug": "bce35bf9ea85e651",
    "mix-self": "be02d7d040f0e17b",
    "mix-diff": "e764cc304a043789",
    "microbatch-mixup": "be02d7d040f0e17b",
}


def draws(groups=20_000, seed=0, **settings):
    return draw_views(ViewSpec(**settings), groups, np.random.default_rng(seed))


def assert_uniform(values, count):
    """Each of 0 .. count-1 equally often, and nothing else."""
    observed = np.bincount(np.asarray(values).ravel(), minlength=count)
    assert len(observed) == count
    assert count == 1 or stats.chisquare(observed).pvalue > LEAST_P


@pytest.mark.parametrize("padding", [0, 4])
def test_offsets_are_uniform_from_zero_to_twice_the_padding_and_independent(padding):
    drawn = draws(method="mix-diff", k_base=3, k_self=1, crop_padding=padding)
    span = 2 * padding + 1
    assert_uniform(drawn.top, span)
    assert_uniform(drawn.left, span)
    # Jointly uniform with the flip: 2 (2p+1)^2 crops, equally likely.
    assert_uniform((drawn.top * span + drawn.left) * 2 + drawn.flip.long(), 2 * span * span)


@pytest.mark.parametrize("rows", [
    lambda one: (one[:, 0], one[:, 1]),  # of one group
    lambda one: (one[0::2, 0], one[1::2, 0]),  # of neighbouring groups
])  # fmt: skip
def test_crops_are_independent_of_each_other(rows):
    drawn = draws(method="self-aug", k_base=2, crop_padding=1)
    one, other = rows((drawn.top * 3 + drawn.left) * 2 + drawn.flip.long())
    assert_uniform(one * 18 + other, 18 * 18)


POOLS = [
    ({"method": "mix-self", "k_base": 2}, 2),
    ({"method": "mix-diff", "k_base": 3, "k_diff": 2}, 5),
    ({"method": "microbatch-mixup", "k_base": 4}, 4),
]


@pytest.mark.parametrize(("settings", "size"), POOLS)
def test_mixtures_are_uniform_ordered_pairs_over_the_whole_pool_its_last_entry_included(
    settings, size
):
    drawn = draws(k_self=3, **settings)
    assert_uniform(drawn.first, size)
    assert_uniform(drawn.second, size)
    assert not (drawn.first == drawn.second).any()
    pair = (drawn.first * size + drawn.second).numpy()
    distinct = np.flatnonzero(~np.eye(size, dtype=bool))
    observed = np.bincount(pair.ravel(), minlength=size * size)[distinct]
    assert stats.chisquare(observed).pvalue > LEAST_P


def test_mixtures_of_one_group_are_drawn_independently():
    drawn = draws(method="mix-self", k_base=3, k_self=2)
    pair = drawn.first * 2 + (drawn.second - drawn.first) % 3 - 1
    assert_uniform(pair[:, 0] * 6 + pair[:, 1], 36)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_weights_follow_the_beta_law(alpha):
    drawn = draws(groups=8_000, method="mix-self", k_base=2, k_self=2, mixup_alpha=alpha)
    assert drawn.weight.dtype == torch.float32
    weight = drawn.weight.double().numpy().ravel()
    assert weight.min() >= 0 and weight.max() <= 1
    # Float32 rounds weights within 3e-8 of 1 to 1 (2 % of them at alpha 0.2): the test of
    # Kolmogorov and Smirnov sees the lower half, where nothing is rounded, and bins see all.
    law = stats.beta(alpha, alpha)
    lower = weight[weight < 0.5]
    assert stats.kstest(lower, lambda x: 2 * law.cdf(x)).pvalue > LEAST_P
    assert_uniform(np.searchsorted(law.ppf(np.arange(1, 20) / 20), weight), 20)
    # The two weights of one group are drawn apart.
    assert abs(stats.spearmanr(*drawn.weight.double().numpy().T).statistic) < 0.05


@pytest.mark.parametrize("alpha", [1e-300, 1e-5, 1e6, 1e300])
def test_weights_stay_in_zero_to_one_at_any_alpha_that_the_spec_takes(alpha):
    weight = draws(groups=200, method="mix-self", mixup_alpha=alpha).weight
    assert ((weight >= 0) & (weight <= 1)).all()


@pytest.mark.parametrize("public", [1, 2, 9])
def test_the_remainder_of_a_public_draw_is_uniform_over_a_pool_of_any_size(public):
    drawn = draws(method="mix-diff", k_diff=2, k_self=1, k_base=1).public
    assert drawn.shape == (20_000, 2)
    assert drawn.min() >= 0 and drawn.max() < PUBLIC_BITS
    assert_uniform(drawn >> 58, 16)
    place = drawn % public
    assert_uniform(place, public)
    assert_uniform(place[:, 0] * public + place[:, 1], public * public)


@pytest.mark.parametrize("kind", ["blur", "all"])
def test_extra_draws_are_uniform_and_leave_the_others_as_they_are(kind):
    spec = ViewSpec("mix-diff", k_base=3, k_self=2)
    rngs = [np.random.default_rng(4) for _ in range(2)]
    without = draw_views(spec, 2000, rngs[0])
    with_it = draw_views(replace(spec, extra_augment=kind), 2000, rngs[1])
    for field in fields(ViewDraws):
        if field.name != "extra":
            assert torch.equal(getattr(with_it, field.name), getattr(without, field.name))
    assert without.extra.numel() == 0
    assert with_it.extra.shape == (2000, spec.unmixed_views, DRAWS_PER_VIEW)
    for place in range(DRAWS_PER_VIEW):
        assert_uniform((with_it.extra[..., place] * 16).long(), 16)
    # Those of one view, and of two views, are drawn apart.
    pairs = (with_it.extra[:, 0] * 4).long()
    assert_uniform(pairs[:, 0] * 4 + pairs[:, 1], 16)
    assert_uniform(pairs[:, 0] * 4 + (with_it.extra[:, 1, 0] * 4).long(), 16)


@pytest.mark.parametrize("method", METHODS)
def test_without_an_extra_augmentation_the_stream_is_as_it_always_was(method):
    """The hash of every draw, and of the draw after them, as they were before there was one."""
    rng = np.random.default_rng(11)
    drawn = draw_views(ViewSpec(method), 7, rng)
    digest = sha256()
    for name in ("top", "left", "flip", "public", "first", "second", "weight"):
        digest.update(getattr(drawn, name).numpy().tobytes())
    digest.update(rng.bytes(8))
    assert digest.hexdigest()[:16] == AS_IT_WAS[method]
