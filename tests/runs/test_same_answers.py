import pytest
import torch
from dpmix.runs.graph_files import IMAGES, largest_difference, public_images
from torch import nn

from dpmix.errors import DpmixError


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 40, 24)])
def test_the_digits_come_in_the_models_form(shape):
    images = public_images(shape)
    assert (images.shape, images.dtype) == ((IMAGES, *shape), torch.uint8)
    assert len(images.flatten(1).unique(dim=0)) == IMAGES


class Sums(nn.Module):
    def forward(self, images):
        total = images.float().sum((1, 2, 3))[:, None]
        return torch.cat([total, -total], dim=1) / 1e6


@pytest.mark.parametrize("wrong", [
    lambda logits: logits + 2e-4,
    lambda logits: logits.flip(1),
    lambda logits: logits * torch.nan,
    lambda logits: logits + 1e-3 * (len(logits) == 1),  # one image alone is another path
], ids=["far", "swapped", "nan", "alone"])  # fmt: skip
def test_other_answers_are_refused(unchecked, wrong):
    images = public_images((1, 8, 8))
    assert largest_difference(Sums(), Sums(), images) == 0
    near = largest_difference(Sums(), lambda x: Sums()(x) + 5e-5, images)
    assert near == pytest.approx(5e-5, rel=1e-2)
    with pytest.raises(DpmixError, match="the exported model's logits differ by"):
        largest_difference(Sums(), lambda x: wrong(Sums()(x)), images)
