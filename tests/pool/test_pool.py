"""The pool itself: what it refuses, what it hands out, and draws by class."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.pool import PublicPool

L = 4


def numbered(count):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)


@pytest.mark.usefixtures("unchecked")
def test_an_empty_pool_and_labels_that_mean_nothing_are_refused():
    for count, labels in ((0, 0), (2, 3)):
        with pytest.raises(DpmixError, match=f"{count} images and {labels} labels"):
            PublicPool(numbered(count), torch.zeros(labels, dtype=torch.int64))
    with pytest.raises(DpmixError, match="each with a class from 0, or -1 for none"):
        PublicPool(numbered(2), torch.tensor([0, UNLABELLED - 1]))


def test_take_returns_images_and_classes_in_the_asked_order_and_shape():
    pool = PublicPool(numbered(5), torch.tensor([4, 3, 2, 1, UNLABELLED]))
    taken, classes = pool.take(torch.tensor([[4, 0, 4], [1, 2, 3]]))
    assert taken[..., 0, 0, 0].tolist() == [[4, 0, 4], [1, 2, 3]]
    assert classes.tolist() == [[-1, 4, -1], [3, 2, 1]]


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
    pool = PublicPool(numbered(len(labels)), labels)
    in_order = sorted(range(len(labels)), key=lambda i: int(labels[i]))
    same, other = (pool.draw(bits, own, how) for how in ("same-class", "other-class"))
    for row, label in enumerate(own.tolist()):
        mine = [i for i in in_order if labels[i] == label]
        rest = [i for i in in_order if labels[i] != label]
        assert same[row].tolist() == [mine[b % len(mine)] for b in bits[row].tolist()]
        assert other[row].tolist() == [rest[b % len(rest)] for b in bits[row].tolist()]
