"""Mixup against a loop over groups and mixtures."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.views.mixup import mixup


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    groups, size = draw(st.integers(0, 3)), draw(st.integers(1, 5))
    mixtures, classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = (draw(st.sampled_from([1, 3])), draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    pool = rng.normal(size=(groups, size, *shape)).astype(np.float32)
    soft = np.eye(classes, dtype=np.float32)[rng.integers(0, classes, (groups, size))]
    first, second = rng.integers(0, size, (2, groups, mixtures))
    weight = rng.random((groups, mixtures)).astype(np.float32)
    return pool, soft, first, second, weight


def run(entries, first, second, weight):
    return mixup(*map(torch.from_numpy, (entries, first, second, weight))).numpy()


def slow(entries, first, second, weight):
    out = np.zeros((*first.shape, *entries.shape[2:]))
    for g, m in np.ndindex(*first.shape):
        lam = float(weight[g, m])
        out[g, m] = lam * entries[g, first[g, m]].astype(float) + (1 - lam) * entries[
            g, second[g, m]
        ].astype(float)
    return out


@settings(max_examples=100, deadline=None)
@given(cases())
def test_equals_the_loop_for_images_and_soft_labels_with_the_same_weights(case):
    pool, soft, *draws = case
    for entries in (pool, soft):
        got = run(entries, *draws)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, slow(entries, *draws), rtol=0, atol=1e-6)
    np.testing.assert_allclose(run(soft, *draws).sum(-1), 1, atol=1e-6)


def test_image_and_label_carry_one_and_the_same_weight():
    # Image and label of entry i are both its one-hot code: mixed alike, they stay equal.
    rng = np.random.default_rng(1)
    code = np.eye(4, dtype=np.float32)[None].repeat(2, 0)
    first, second = rng.integers(0, 4, (2, 2, 50))
    weight = rng.random((2, 50)).astype(np.float32)
    image = run(code.reshape(2, 4, 1, 2, 2), first, second, weight)
    label = run(code, first, second, weight)
    assert np.array_equal(image.reshape(label.shape), label)
    lone = first != second
    assert np.allclose(np.take_along_axis(label, first[..., None], -1)[..., 0][lone], weight[lone])


@pytest.mark.parametrize(("weight", "chosen"), [(1.0, "first"), (0.0, "second")])
def test_a_weight_of_one_or_zero_gives_the_entry_itself(weight, chosen):
    rng = np.random.default_rng(2)
    pool = rng.normal(size=(3, 4, 3, 5, 2)).astype(np.float32)
    at = dict(zip(("first", "second"), rng.integers(0, 4, (2, 3, 6)), strict=True))
    got = run(pool, at["first"], at["second"], np.full((3, 6), weight, np.float32))
    assert np.array_equal(got, pool[np.arange(3)[:, None], at[chosen]])


def test_groups_never_meet():
    rng = np.random.default_rng(3)
    pool = rng.normal(size=(3, 4, 1, 3, 3)).astype(np.float32)
    first, second = rng.integers(0, 4, (2, 3, 5))
    weight = rng.random((3, 5)).astype(np.float32)
    before = run(pool, first, second, weight)
    pool[1] = np.nan
    after = run(pool, first, second, weight)
    assert np.array_equal(before[[0, 2]], after[[0, 2]])
    assert np.isnan(after[1]).all()
