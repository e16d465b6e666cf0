"""The small CNN: size, shapes, independence."""

import pytest
import torch

from dpmix.models.cnn_small import SmallCNN
from dpmix.models.registry import parameter_count


def test_parameter_count_by_hand():
    model = SmallCNN(in_channels=3, num_classes=10)
    # A weight-standardised convolution has a bias and a gain for every output channel.
    convs = (3 * 16 * 25 + 2 * 16) + (16 * 32 * 9 + 2 * 32)
    norms = 2 * (16 + 32)
    assert parameter_count(model) == convs + norms + 512 * 10 + 10 == 11_130


@pytest.mark.parametrize("size", [8, 28, 32, 45])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits_for_any_channels_and_size(channels, size):
    logits = SmallCNN(in_channels=channels, num_classes=5)(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


def test_widths_are_free():
    model = SmallCNN(in_channels=1, num_classes=3, channels=(8, 12))
    assert model(torch.randn(1, 1, 16, 16)).shape == (1, 3)


def test_an_image_does_not_see_the_others_and_every_parameter_learns():
    model = SmallCNN(in_channels=3, num_classes=10).double()
    images = torch.randn(3, 3, 28, 28, dtype=torch.float64)
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-12)
    torch.nn.functional.cross_entropy(alone, torch.tensor([0, 4, 9])).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
