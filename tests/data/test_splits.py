import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits, hashed_split, stratified_split
from dpmix.errors import DpmixError


def source(labels, names="ab", shape=(1, 2, 2)):
    pixels = torch.zeros(len(labels), *shape, dtype=torch.uint8)
    return TensorSource(pixels, torch.tensor(labels), tuple(names))


def test_accepts_sides_that_fit():
    assert len(Splits("d", source([0, 1]), source([1, 0]), flip=True).train_digests) == 2


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (source([0], "a"), source([0], "a"), "one class only, 'a'"),
        (source([0, 0], "abc"), source([0, 1, 2], "abc"), "no train image of class b, c"),
        (source([0, 1]), source([1]), "no test image of class a"),
        (source([0, 1]), source([0, 1], "ac"), "classes differ: b, c"),
        (source([0, 1]), source([0, 1], "ba"), "another order"),
        (source([0, 1]), source([0, 1], shape=(1, 2, 3)), "--image-size"),
    ],
)
def test_refuses_sides_that_do_not_fit(train, test, said):
    with pytest.raises(DpmixError, match=said):
        Splits("d", train, test, flip=True)


paths = st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=30)
fractions = st.floats(0.01, 0.99)


@settings(deadline=None)
@given(paths, fractions, st.data())
def test_one_file_more_or_less_moves_no_other_file(names, fraction, data):
    gone = data.draw(st.integers(0, len(names) - 1))
    everyone = hashed_split(names, fraction).tolist()
    fewer = hashed_split(names[:gone] + names[gone + 1 :], fraction).tolist()
    assert fewer == everyone[:gone] + everyone[gone + 1 :]


@settings(deadline=None)
@given(paths, fractions, fractions)
def test_a_larger_fraction_only_adds_test_files(names, one, other):
    small, large = (hashed_split(names, fraction) for fraction in sorted((one, other)))
    assert not (small & ~large).any()


def test_hashed_share_is_near_the_fraction():
    share = hashed_split([f"class/{i}.png" for i in range(4000)], 0.2).float().mean().item()
    assert abs(share - 0.2) < 0.03


def test_the_rule_is_the_documented_one():
    # sha256("a") begins with ca, sha256("b") with 3e.
    assert hashed_split(["a", "b"], 0.5).tolist() == [False, True]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_hashed_split_refuses_a_fraction_outside_0_1(fraction):
    with pytest.raises(DpmixError, match="between 0 and 1"):
        hashed_split(["a"], fraction)


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=60), st.integers(0, 9), st.data())
def test_stratified_split_is_a_proportional_partition(labels, seed, data):
    test_count = data.draw(st.integers(1, len(labels) - 1))
    tensor = torch.tensor(labels)
    train, test = stratified_split(tensor, test_count, seed)
    assert len(test) == test_count
    assert sorted(train.tolist() + test.tolist()) == list(range(len(labels)))
    for label in set(labels):
        exact = test_count * labels.count(label) / len(labels)
        assert abs(int((tensor[test] == label).sum()) - exact) < 1


def test_stratified_split_depends_on_the_seed():
    labels = torch.zeros(100, dtype=torch.int64)
    first, second = (stratified_split(labels, 50, seed)[1].tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("count", [0, 2])
def test_stratified_split_refuses_an_empty_side(count):
    with pytest.raises(DpmixError, match=f"test count is {count}"):
        stratified_split(torch.tensor([0, 1]), count, 0)
