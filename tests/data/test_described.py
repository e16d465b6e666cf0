"""Sets that are not there, by their published numbers."""

import pytest
import torch

from dpmix.data.source import ImageSource
from dpmix.data.torchvision_sets import KNOWN, TEST_SHARE, TORCHVISION_SETS, described_splits
from dpmix.errors import DpmixError


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_every_set_of_the_paper_has_its_numbers(name):
    splits = described_splits(name, 48, None)
    assert isinstance(splits.train, ImageSource)
    assert splits.train.image_shape == (3, 48, 48)
    assert len(splits.train.class_names) == KNOWN[name].classes
    assert splits.train.images(torch.tensor([3, 1])).shape == (2, 3, 48, 48)
    assert "not here" in splits.name
    if name in ("eurosat", "caltech256", "sun397"):
        whole = len(splits.train) + len(splits.test)
        assert len(splits.test) == whole // TEST_SHARE


def test_images_of_many_sizes_need_one():
    assert described_splits("cifar10", None, 1).train.image_shape == (1, 32, 32)
    with pytest.raises(DpmixError, match="many sizes: give --image-size"):
        described_splits("pet", None, None)
