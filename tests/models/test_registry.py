"""Models by name, the refusals of the registry, and the small network."""

import pytest
import torch

from dpmix.clipping.model_check import check_private
from dpmix.errors import DpmixError
from dpmix.models import MODEL_NAMES, build_model, parameter_count
from dpmix.models.registry import SmallCNN


@pytest.mark.parametrize("name", sorted({*MODEL_NAMES} - {"wrn-40-4"}))
def test_every_model_is_built_and_passes_the_check(name):
    model = build_model(name, in_channels=1, num_classes=4)
    check_private(model, (1, 8, 8))
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 4)


def test_parameter_count_leaves_out_the_frozen():
    model = build_model("cnn-small", in_channels=1, num_classes=2)
    model.features.requires_grad_(False)
    assert parameter_count(model) == 512 * 2 + 2


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "wrn-16-5"}, "unknown model 'wrn-16-5': did you mean 'wrn-16-4'"),
    ({"name": "cnn-small", "shortcut": "conv-norm-relu"}, "'cnn-small' has no shortcut.*wrn"),
    ({"name": "wrn-16-4", "shortcut": "none"}, "unknown shortcut 'none'"),
])  # fmt: skip
def test_refusals(arguments, message):
    with pytest.raises(DpmixError, match=message):
        build_model(**{"in_channels": 3, "num_classes": 10, **arguments})


def test_the_small_networks_parameter_count_by_hand():
    model = SmallCNN(in_channels=3, num_classes=10)
    # A weight-standardised convolution has a bias and a gain for every output channel.
    convs = (3 * 16 * 25 + 2 * 16) + (16 * 32 * 9 + 2 * 32)
    norms = 2 * (16 + 32)
    assert parameter_count(model) == convs + norms + 512 * 10 + 10 == 11_130


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (28, 3), (45, 3)])
def test_the_small_networks_logits_of_any_image_alone_reach_every_parameter(size, channels):
    model = SmallCNN(in_channels=channels, num_classes=10).double()
    images = torch.randn(3, channels, size, size, dtype=torch.float64)
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    assert alone.shape == (3, 10)
    torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-12)
    torch.nn.functional.cross_entropy(alone, torch.tensor([0, 4, 9])).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
