import pytest
import torch

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError


def test_every_range_equals_its_definition_for_uint8_and_float():
    ends = torch.tensor([0, 255], dtype=torch.uint8).reshape(1, 1, 2)
    assert normalization("unit", 1)(ends).flatten().tolist() == [0.0, 1.0]
    assert normalization("half", 1)(ends).flatten().tolist() == [-1.0, 1.0]
    images = torch.randint(0, 256, (2, 5, 3, 4, 4), dtype=torch.uint8)
    apply = normalization("imagenet", 3)
    for channel in range(3):
        expected = (images[:, :, channel] / 255 - apply.mean[channel]) / apply.std[channel]
        torch.testing.assert_close(apply(images)[:, :, channel], expected)
    assert apply(images).dtype == torch.float32
    assert torch.equal(apply(images.double()), apply(images))


def test_refuses_what_it_does_not_know():
    with pytest.raises(DpmixError, match="did you mean 'imagenet'"):
        normalization("imagnet", 3)
    with pytest.raises(DpmixError, match="--channels 3"):
        normalization("imagenet", 1)
    with pytest.raises(DpmixError, match="1 channels"):
        normalization("unit", 3)(torch.zeros(1, 4, 4))
