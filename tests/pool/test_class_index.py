"""Draws by class against lists, for every label and many random draws."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dpmix.pool.pool import ClassIndex

L = 4


@st.composite
def cases(draw):
    # Every class once or more, in any order.
    more = draw(st.lists(st.integers(0, L - 1), max_size=12))
    labels = draw(st.permutations([*range(L), *more]))
    own = draw(st.lists(st.integers(0, L - 1), min_size=1, max_size=5))
    bits = [[draw(st.integers(0, (1 << 62) - 1)) for _ in range(3)] for _ in own]
    return torch.tensor(labels), torch.tensor(own), torch.tensor(bits)


@given(cases())
def test_draws_equal_the_remainder_in_a_list_of_the_class_and_of_the_others(case):
    labels, own, bits = case
    index = ClassIndex.of(labels, L)
    in_order = sorted(range(len(labels)), key=lambda i: int(labels[i]))
    same, other = index.same_class(bits, own), index.other_class(bits, own)
    for row, label in enumerate(own.tolist()):
        mine = [i for i in in_order if labels[i] == label]
        rest = [i for i in in_order if labels[i] != label]
        assert same[row].tolist() == [mine[b % len(mine)] for b in bits[row].tolist()]
        assert other[row].tolist() == [rest[b % len(rest)] for b in bits[row].tolist()]


def test_draws_are_uniform_over_their_images():
    labels = torch.tensor([2, 0, 1, 1, 3, 0, 2, 2])
    rng = np.random.default_rng(0)
    bits = torch.from_numpy(rng.integers(0, 1 << 62, (20_000, 1)))
    own = torch.full((20_000,), 2)
    index = ClassIndex.of(labels, L)
    for drawn, members in ((index.same_class, [0, 6, 7]), (index.other_class, [1, 2, 3, 4, 5])):
        counts = np.bincount(drawn(bits, own)[:, 0], minlength=8)
        assert counts[members].sum() == 20_000
        assert stats.chisquare(counts[members]).pvalue > 1e-3
