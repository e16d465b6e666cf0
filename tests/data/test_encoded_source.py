import numpy as np
import pytest
import torch

from dpmix.data.encoded_source import EncodedSource
from dpmix.data.image import PixelForm
from dpmix.errors import DpmixError

FORM = PixelForm((1, 4, 4), convert=False, resize=False, example="0")


def test_fetches_by_index(png, encoded):
    files = encoded(*(png("L", 4, 4, seed) for seed in range(3)))
    digests = np.zeros((3, 32), dtype=np.uint8)
    source = EncodedSource(files, torch.tensor([0, 1, 1]), ("a", "b"), FORM, digests)
    everything = source.images(torch.arange(3))
    assert (len(source), source.image_shape) == (3, (1, 4, 4))
    assert torch.equal(source.images(torch.tensor([2, 0, 2])), everything[[2, 0, 2]])
    assert source.images(torch.arange(0)).shape == (0, 1, 4, 4)


def test_labels_are_checked(png, encoded):
    with pytest.raises(DpmixError, match="label 2"):
        EncodedSource(
            encoded(png("L", 4, 4)), torch.tensor([2]), ("a", "b"), FORM,
            np.zeros((1, 32), dtype=np.uint8),
        )  # fmt: skip
