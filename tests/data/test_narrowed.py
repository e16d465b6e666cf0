"""Fewer classes, held-out images and fewer images: by labels and places alone."""

from hashlib import sha256

import numpy as np
import pytest
import torch

from dpmix.data import Splits, TensorSource, load_splits
from dpmix.data import decode as decoding
from dpmix.data.encoded_source import EncodedSource
from dpmix.data.splits import narrowed
from dpmix.errors import DpmixError

TRAIN, TEST = 600, 90


def splits(seed=0):
    """Pixels that hold their own place in the source: two bytes of it."""
    rng = np.random.default_rng(seed)

    def side(count):
        pixels = torch.from_numpy(rng.integers(0, 256, (count, 1, 2, 2), dtype=np.uint8))
        pixels[:, 0, 0, 0] = torch.arange(count) % 256
        pixels[:, 0, 0, 1] = torch.arange(count) // 256
        return TensorSource(pixels, torch.arange(count) % 4, ("a", "b", "c", "d"))

    return Splits("numbers", side(TRAIN), side(TEST), flip=True)


def places(source):
    pixels = source.images(torch.arange(len(source))).int()
    return (pixels[:, 0, 0, 0] + 256 * pixels[:, 0, 0, 1]).tolist()


def test_without_settings_nothing_changes():
    given = splits()
    assert narrowed(given, None, None, None) is given


def test_the_first_classes_stay_on_both_sides():
    found = narrowed(splits(), 3, None, None)
    for side, count in ((found.train, TRAIN), (found.test, TEST)):
        assert side.class_names == ("a", "b", "c")
        assert places(side) == [i for i in range(count) if i % 4 < 3]
        assert side.labels.tolist() == [i % 4 for i in places(side)]
    assert found.judged_on == "test"


def test_validation_images_are_training_images_by_the_hash_of_their_place():
    given = splits()
    found = narrowed(given, None, 0.2, None)
    bound = 0.2 * 2.0**256

    def held(i):
        return int.from_bytes(sha256(f"validation:{i}".encode()).digest(), "big") < bound

    assert places(found.test) == [i for i in range(TRAIN) if held(i)]
    assert places(found.train) == [i for i in range(TRAIN) if not held(i)]
    assert abs(len(found.test) / TRAIN - 0.2) < 0.05
    assert found.judged_on == "validation"


def test_train_images_are_the_first_of_a_fixed_order_so_that_few_are_part_of_more():
    whole = range(TRAIN)
    order = sorted(whole, key=lambda i: sha256(f"train:{i}".encode()).hexdigest())
    for count in (50, 51, 300, TRAIN):
        found = narrowed(splits(), None, None, count)
        assert places(found.train) == sorted(order[:count])
        assert len(found.test) == TEST


def test_neither_pixels_nor_labels_choose():
    other = splits(seed=1)
    labels = (other.train.labels + 1) % 4
    other = Splits(
        "others", TensorSource(other.train.pixels, labels, ("a", "b", "c", "d")), other.test, True
    )
    one, two = (narrowed(given, None, 0.3, 100) for given in (splits(), other))
    assert places(one.train) == places(two.train)
    assert places(one.test) == places(two.test)


def test_the_order_is_classes_then_validation_then_training_images():
    at_once = narrowed(splits(), 3, 0.25, 150)
    classes = narrowed(splits(), 3, None, None)
    held = narrowed(classes, None, 0.25, None)
    some = narrowed(held, None, None, 150)
    assert places(at_once.train) == places(some.train)
    assert places(at_once.test) == places(held.test)
    assert len(at_once.train) == 150
    assert not set(places(at_once.train)) & set(places(at_once.test))
    assert isinstance(at_once.train.whole, TensorSource), "one step to the images, not three"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((5, None, None), "classes is 5; numbers has 4: expected 2 to 4"),
        ((1, None, None), "classes is 1; numbers has 4"),
        ((None, None, TRAIN + 1), "train_images is 601; expected 1 or more"),
        ((None, None, 0), "train_images is 0"),
        ((3, 0.5, 400), "train_images is 400; expected 1 or more"),
        ((None, 1.0, None), r"the share held out is 1\.0; expected a number between 0 and 1"),
        ((None, 1e-9, None), "no validation image of class a, b, c, d"),
        ((None, None, 2), "no train image of class"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(DpmixError, match=said):
        narrowed(splits(), *settings)


def test_images_that_stay_encoded_are_decoded_only_where_they_are_kept(image_root, monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES_IN_MEMORY", 1)
    whole = load_splits(str(image_root)).train
    assert isinstance(whole, EncodedSource)
    found = load_splits(str(image_root), validation_fraction=0.3, train_images=20)
    kept = found.train.indices
    assert torch.equal(found.train.images(torch.arange(20)), whole.images(kept))
    assert not set(kept.tolist()) & set(found.test.indices.tolist())


def test_a_built_in_set_is_narrowed_when_it_is_loaded():
    found = load_splits("mnist5k", classes=3, validation_fraction=0.25, train_images=100)
    assert found.train.class_names == ("0", "1", "2")
    assert len(found.train) == 100
    assert found.judged_on == "validation"
    assert abs(len(found.test) - 300) < 60
