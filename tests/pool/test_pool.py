"""The pool itself: what it refuses, and what it hands out."""

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.pool import PublicPool


def numbered(count):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("count", "labels"), [(0, 0), (2, 3), (3, 0)])
def test_an_empty_pool_or_one_with_too_few_labels_is_refused(count, labels):
    with pytest.raises(DpmixError, match=f"{count} images and {labels} labels"):
        PublicPool(numbered(count), torch.zeros(labels, dtype=torch.int64))


def test_a_label_that_means_nothing_is_refused():
    with pytest.raises(DpmixError, match="label -2; expected a class from 0"):
        PublicPool(numbered(2), torch.tensor([0, UNLABELLED - 1]))


def test_take_returns_images_and_classes_in_the_asked_order_and_shape():
    pool = PublicPool(numbered(5), torch.tensor([4, 3, 2, 1, UNLABELLED]))
    taken, classes = pool.take(torch.tensor([[4, 0, 4], [1, 2, 3]]))
    assert taken[..., 0, 0, 0].tolist() == [[4, 0, 4], [1, 2, 3]]
    assert classes.tolist() == [[-1, 4, -1], [3, 2, 1]]
