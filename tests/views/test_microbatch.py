"""The pairs of `microbatch-mixup`, and the coupling that its sensitivity of 2C rests on."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import linprog

from dpmix.views.mixup import random_matching

LEAST_P = 1e-3  # the seeds are fixed


def pairs(order):
    """Consecutive entries are a pair; who comes first decides whose views come first."""
    return frozenset((int(order[i]), int(order[i + 1])) for i in range(0, len(order) - 1, 2))


def matchings(members, keep_the_odd_one=False):
    """Law of the groups over all orders of `members`; an odd one is left out, or kept alone."""
    count = Counter()
    for order in permutations(members):
        groups = pairs(order)
        if keep_the_odd_one and len(order) % 2:
            groups |= {(order[-1],)}
        count[groups] += 1
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
def test_beside_an_odd_number_one_more_example_adds_one_group(count):
    law, other = matchings(range(count)), matchings(range(count + 1))
    assert coupled(law, other, one_extra)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_beside_an_even_number_one_more_example_replaces_at_most_one_group(count):
    law, other = matchings(range(count)), matchings(range(count + 1))
    assert coupled(law, other, one_replaced)
    if count:
        # It does replace one: no coupling leaves the groups as they were or adds to them.
        assert not coupled(law, other, lambda a, b: a <= b)


def test_keeping_the_odd_example_as_a_group_of_its_own_would_cost_three_terms():
    def terms(most):
        return lambda a, b: len(a ^ b) <= most

    law, other = matchings(range(4), True), matchings(range(5), True)
    assert not coupled(law, other, terms(2))
    assert coupled(law, other, terms(3))
