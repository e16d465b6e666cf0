"""Models by name, and the refusals of the registry."""

import pytest
import torch

from dpmix.clipping.model_check import check_private
from dpmix.errors import DpmixError
from dpmix.models import MODEL_NAMES, build_model, parameter_count
from dpmix.models.wide_resnet import WideResNet


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_model_is_built_and_passes_the_check(name):
    model = build_model(name, in_channels=1, num_classes=4)
    check_private(model, (1, 8, 8))
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 4)


def test_the_shortcut_reaches_the_model():
    model = build_model("wrn-16-4", in_channels=3, num_classes=2, shortcut="conv-norm-relu")
    assert isinstance(model, WideResNet)
    assert isinstance(model.groups[0][0].skip[0], torch.nn.GroupNorm)


def test_parameter_count_leaves_out_the_frozen():
    model = build_model("cnn-small", in_channels=1, num_classes=2)
    model.features.requires_grad_(False)
    assert parameter_count(model) == 512 * 2 + 2


@pytest.mark.parametrize(("arguments", "message"), [
    ({"name": "wrn-16-5"}, "unknown model 'wrn-16-5': did you mean 'wrn-16-4'"),
    ({"name": "cnn-small", "shortcut": "conv-norm-relu"}, "'cnn-small' has no shortcut.*wrn"),
    ({"name": "wrn-16-4", "shortcut": "none"}, "unknown shortcut 'none'"),
    ({"name": "wrn-16-4", "in_channels": 0}, "in_channels 0"),
    ({"name": "wrn-16-4", "num_classes": 1}, "num_classes 1"),
])  # fmt: skip
def test_refusals(arguments, message):
    with pytest.raises(DpmixError, match=message):
        build_model(**{"in_channels": 3, "num_classes": 10, **arguments})
