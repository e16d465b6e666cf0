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


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 3), (45, 3)])
def test_logits_of_any_image_alone_reach_every_parameter(size, channels):
    model = SmallCNN(in_channels=channels, num_classes=10, channels=(8, 12)).double()
    images = torch.randn(3, channels, size, size, dtype=torch.float64)
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    assert alone.shape == (3, 10)
    torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-12)
    torch.nn.functional.cross_entropy(alone, torch.tensor([0, 4, 9])).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
