"""The public rule that bounds what one image can add."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.pool.score import DIRECTIONS, PublicProjection


def features(count=60, size=40, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((count, size)) * scale).float()


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e10, 1e30, 3e38]),
    st.integers(2, 30),
)
def test_no_image_comes_out_longer_than_one_whatever_its_features(seed, scale, pool_size):
    rule = PublicProjection.of(features(pool_size, 12, seed))
    wild = features(20, 12, seed + 1).sign() * scale
    wild[0, 0], wild[1, 1], wild[2, 2] = float("nan"), float("inf"), -float("inf")
    lengths = rule(wild).norm(dim=1)
    assert (lengths <= 1).all()
    assert not lengths[:3].any()


def test_a_pool_of_equal_images_still_gives_a_rule_of_norm_one():
    rule = PublicProjection.of(torch.ones(5, 7))
    assert (rule(features(9, 7)).norm(dim=1) <= 1).all()


def test_coordinates_are_the_principal_directions_and_the_length_of_the_rest():
    pool = features(200, 30)
    pool[:, 3] *= 50  # the leading direction
    rule = PublicProjection.of(pool)
    got = rule(pool)
    assert got.shape == (200, DIRECTIONS + 1)
    centred = pool.double() - pool.double().mean(0)
    inside = got.norm(dim=1) < 0.999
    assert abs(np.corrcoef(got[inside, 0], centred[inside, 3])[0, 1]) > 0.999
    # By numpy's own decomposition, for images inside the radius.
    _, _, rows = np.linalg.svd(centred.numpy(), full_matrices=False)
    along = centred.numpy() @ rows[:DIRECTIONS].T
    expected = np.abs(along[inside]) / rule.radius
    np.testing.assert_allclose(got[inside, :-1].abs().numpy(), expected, rtol=1e-6, atol=1e-9)
    rest = np.linalg.norm(centred.numpy() - along @ rows[:DIRECTIONS], axis=1)
    expected = (rest - rest.mean())[inside] / rule.radius
    np.testing.assert_allclose(got[inside, -1].numpy(), expected, rtol=1e-6, atol=1e-9)


def test_five_in_a_hundred_of_the_pool_are_clipped():
    pool = features(400, 30)
    assert 15 <= int((PublicProjection.of(pool)(pool).norm(dim=1) > 0.999).sum()) <= 25


def test_the_last_coordinate_sees_a_domain_that_the_pool_never_varies_in():
    pool = features(100, 30)
    pool[:, 20:] = 0
    other = pool.clone()
    other[:, 20:] = 5
    rule = PublicProjection.of(pool)
    assert rule(other)[:, -1].mean() > 0.5
    assert rule(pool)[:, -1].mean() == pytest.approx(0, abs=0.02)
