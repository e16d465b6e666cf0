import torch

from dpmix.data.image import ReadOptions
from dpmix.data.named import mnist5k

SUM_OF_TEST_PIXELS = 26101008


def test_split_is_stratified_and_fixed():
    splits = mnist5k(ReadOptions())
    assert (len(splits.train), len(splits.test)) == (4000, 1000)
    assert splits.train.image_shape == (1, 28, 28)
    assert splits.train.class_names == tuple("0123456789")
    assert torch.bincount(splits.train.labels).tolist() == [400] * 10
    assert torch.bincount(splits.test.labels).tolist() == [100] * 10
    assert not splits.flip
    # A changed split would make published numbers incomparable.
    assert int(splits.test.images(torch.arange(1000)).long().sum()) == SUM_OF_TEST_PIXELS


def test_options_apply():
    splits = mnist5k(ReadOptions(image_size=14, channels=3))
    assert splits.train.image_shape == (3, 14, 14)
