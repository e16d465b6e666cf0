"""Mixup against a loop over groups and mixtures; the pairs of `microbatch-mixup`, and the coupling
that its sensitivity of 2C rests on."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from dpmix.views.mixup import mixup, random_matching

LEAST_P = 1e-3  # the seeds are fixed


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


def pairs(order):
    """Consecutive entries are a pair; who comes first decides whose views come first."""
    return frozenset((int(order[i]), int(order[i + 1])) for i in range(0, len(order) - 1, 2))


def matchings(members):
    """Law of the groups over all orders of `members`; an odd one is left out."""
    count = Counter(pairs(order) for order in permutations(members))
    total = sum(count.values())
    return {groups: times / total for groups, times in count.items()}


def coupled(law, other, allowed):
    """Whether both laws can be drawn together so that every drawn pair is allowed."""
    edges = [(a, b) for a in law for b in other if allowed(a, b)]
    rows, columns = list(law), list(other)
    marginals = np.zeros((len(rows) + len(columns), len(edges)))
    for at, (a, b) in enumerate(edges):
        marginals[rows.index(a), at] = marginals[len(rows) + columns.index(b), at] = 1
    found = linprog(
        np.zeros(len(edges)), A_eq=marginals, b_eq=[*law.values(), *other.values()], bounds=(0, 1)
    )
    return found.status == 0


def one_extra(without, with_z):
    return without < with_z and len(with_z - without) == 1


def one_replaced(without, with_z):
    return len(without - with_z) <= 1 and len(with_z - without) <= 1


@pytest.mark.parametrize("count", range(8))
def test_a_matching_is_even_and_holds_each_drawn_example_at_most_once(count):
    drawn = torch.arange(count) * 10 + 3
    for seed in range(20):
        matched = random_matching(drawn, np.random.default_rng(seed)).tolist()
        assert len(matched) == count // 2 * 2
        assert len(set(matched)) == len(matched)
        assert set(matched) <= set(drawn.tolist())


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_matchings_are_uniform_with_each_odd_one_left_out_equally_often(count):
    rng = np.random.default_rng(11)
    drawn = torch.arange(count)
    law = matchings(range(count))
    seen = Counter(pairs(random_matching(drawn, rng)) for _ in range(200 * len(law)))
    assert set(seen) <= set(law)
    assert len(set(law.values())) == 1
    assert stats.chisquare([seen[groups] for groups in law]).pvalue > LEAST_P
    if count % 2:
        left = Counter()
        for groups, times in seen.items():
            (odd,) = set(range(count)) - {member for pair in groups for member in pair}
            left[odd] += times
        assert stats.chisquare([left[member] for member in range(count)]).pvalue > LEAST_P


@pytest.mark.parametrize("count", [1, 3, 5])
def test_next_to_an_odd_number_one_more_example_adds_one_group(count):
    law, other = matchings(range(count)), matchings(range(count + 1))
    assert coupled(law, other, one_extra)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_next_to_an_even_number_one_more_example_replaces_at_most_one_group(count):
    law, other = matchings(range(count)), matchings(range(count + 1))
    assert coupled(law, other, one_replaced)
    if count:
        # It does replace one: no coupling leaves the groups as they were or adds to them.
        assert not coupled(law, other, lambda a, b: a <= b)
