"""Labels as rows of numbers."""

import torch

from dpmix.views.labels import soft_labels, soft_labels_of_pool

NAN = torch.nan


def equal(rows, expected):
    return torch.equal(rows.nan_to_num(-1), torch.tensor(expected).nan_to_num(-1))


def test_rows_of_a_class_and_of_several_labels():
    assert equal(soft_labels(torch.tensor([2, 0]), 3), [[0.0, 0, 1], [1, 0, 0]])
    several = soft_labels(torch.tensor([[1, 0, -1], [-1, -1, 1]]), 3)
    assert equal(several, [[1.0, 0, NAN], [NAN, NAN, 1]])


def test_a_public_image_knows_the_class_of_its_folder_alone():
    folders = torch.tensor([[1, -1]])
    one = soft_labels_of_pool(folders, 2, "single-label")
    assert equal(one, [[[0.0, 1], [0.5, 0.5]]])
    several = soft_labels_of_pool(folders, 2, "multi-label")
    assert equal(several, [[[NAN, 1], [NAN, NAN]]])
