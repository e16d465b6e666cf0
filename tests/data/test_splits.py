"""Splits fit together; labels, paths and places alone decide which image is where."""

from hashlib import sha256

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.data import Splits, TensorSource
from dpmix.data.splits import hashed_split, narrowed, stratified_split
from dpmix.errors import DpmixError

quick = settings(deadline=None)
TRAIN, TEST = 600, 90


def source(labels, names="ab", shape=(1, 2, 2)):
    pixels = torch.zeros(len(labels), *shape, dtype=torch.uint8)
    return TensorSource(pixels, torch.tensor(labels), tuple(names))


@pytest.mark.parametrize(
    ("train", "test", "said"),
    [
        (source([0], "a"), source([0], "a"), "one class only, 'a'"),
        (source([0, 0], "abc"), source([0, 1, 2], "abc"), "no train image of class b, c"),
        (source([0, 1]), source([1]), "no test image of class a"),
        (source([0, 1]), source([0, 1], "ac"), "train and test images differ"),
        (source([0, 1]), source([0, 1], shape=(1, 2, 3)), "--image-size"),
    ],
)
def test_refuses_sides_that_do_not_fit(train, test, said):
    with pytest.raises(DpmixError, match=said):
        Splits("d", train, test, flip=True)


paths = st.lists(st.text(min_size=1), unique=True, min_size=1, max_size=30)


@quick
@given(paths, st.floats(0.01, 0.99), st.data())
def test_one_file_more_or_less_moves_no_other_file(names, fraction, data):
    gone = data.draw(st.integers(0, len(names) - 1))
    everyone = hashed_split(names, fraction).tolist()
    fewer = hashed_split(names[:gone] + names[gone + 1 :], fraction).tolist()
    assert fewer == everyone[:gone] + everyone[gone + 1 :]


def test_hashed_split_is_the_documented_rule():
    # sha256("a") begins with ca, sha256("b") with 3e.
    assert hashed_split(["a", "b"], 0.5).tolist() == [False, True]
    share = hashed_split([f"class/{i}.png" for i in range(4000)], 0.2).float().mean().item()
    assert abs(share - 0.2) < 0.03


@quick
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


def numbers(seed=0):
    """Pixels that hold their own place in the source: two bytes of it."""
    rng = np.random.default_rng(seed)

    def side(count):
        pixels = torch.from_numpy(rng.integers(0, 256, (count, 1, 2, 2), dtype=np.uint8))
        pixels[:, 0, 0, 0] = torch.arange(count) % 256
        pixels[:, 0, 0, 1] = torch.arange(count) // 256
        return TensorSource(pixels, (torch.arange(count) + seed) % 4, ("a", "b", "c", "d"))

    return Splits("numbers", side(TRAIN), side(TEST), flip=True)


def places(source):
    pixels = source.images(torch.arange(len(source))).int()
    return (pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1]).tolist()


def test_validation_images_are_training_images_by_the_hash_of_their_place():
    found = narrowed(numbers(), None, 0.2, None)
    bound = 0.2 * 2.0**256

    def held(i):
        return int.from_bytes(sha256(f"validation:{i}".encode()).digest(), "big") < bound

    assert places(found.test) == [i for i in range(TRAIN) if held(i)]
    assert places(found.train) == [i for i in range(TRAIN) if not held(i)]
    assert found.judged_on == "validation"


def test_train_images_are_the_first_of_a_fixed_order_so_that_few_are_part_of_more():
    order = sorted(range(TRAIN), key=lambda i: sha256(f"train:{i}".encode()).hexdigest())
    for count in (50, 51, TRAIN):
        found = narrowed(numbers(), None, None, count)
        assert places(found.train) == sorted(order[:count])
        assert len(found.test) == TEST


def test_the_order_is_classes_then_validation_then_training_images():
    at_once = narrowed(numbers(), 3, 0.25, 150)
    held = narrowed(narrowed(numbers(), 3, None, None), None, 0.25, None)
    assert places(at_once.train) == places(narrowed(held, None, None, 150).train)
    assert places(at_once.test) == places(held.test)
    assert not set(places(at_once.train)) & set(places(at_once.test))
    assert isinstance(at_once.train.whole, TensorSource), "one step to the images, not three"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((5, None, None), "classes is 5; numbers has 4: expected 2 to 4"),
        ((None, None, TRAIN + 1), "train_images is 601; expected 1 or more"),
        ((None, None, 0), "train_images is 0"),
        ((None, 1.0, None), r"the share held out is 1\.0; expected a number between 0 and 1"),
        ((None, 1e-9, None), "no validation image of class a, b, c, d"),
    ],
)
def test_numbers_out_of_range_are_refused(given, said):
    with pytest.raises(DpmixError, match=said):
        narrowed(numbers(), *given)
