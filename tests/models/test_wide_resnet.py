"""Shape, size and independence of the wide ResNets."""

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.models.registry import parameter_count
from dpmix.models.wide_resnet import SHORTCUTS, WideResNet


def closed_form(depth: int, width: int, in_channels: int, classes: int) -> int:
    """Count by hand: a convolution has a weight, a bias and a gain; a norm a scale and a shift."""

    def conv(a: int, b: int, k: int) -> int:
        return a * b * k * k + 2 * b

    total, previous = conv(in_channels, 16, 3), 16
    for group in (1, 2, 4):
        wide = 16 * group * width
        total += 2 * previous + conv(previous, wide, 1)  # the shortcut that changes shape
        for _ in range((depth - 4) // 6):
            total += 2 * previous + conv(previous, wide, 3) + 2 * wide + conv(wide, wide, 3)
            previous = wide
    return total + 2 * previous + previous * classes + classes


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize(("depth", "literal"), [(16, 2_753_818), (40, 8_961_306)])
def test_parameter_count(depth, literal, shortcut):
    model = WideResNet(depth, 4, in_channels=3, num_classes=10, shortcut=shortcut)
    assert parameter_count(model) == closed_form(depth, 4, 3, 10) == literal


@pytest.mark.parametrize("shortcut", SHORTCUTS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 64])
def test_logits_for_any_channels_and_size(size, channels, shortcut):
    model = WideResNet(10, 1, in_channels=channels, num_classes=7, shortcut=shortcut)
    logits = model(torch.randn(2, channels, size, size))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


def test_wrn_16_4_runs_at_full_width_and_reaches_every_parameter():
    torch.manual_seed(0)
    model = WideResNet(16, 4, in_channels=3, num_classes=10)
    logits = model(torch.randn(2, 3, 32, 32))
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 8])).backward()
    assert logits.shape == (2, 10)
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def test_blocks_shrink_the_map_at_the_second_and_third_group():
    model = WideResNet(16, 4, in_channels=3, num_classes=10)
    x = model.stem(torch.randn(1, 3, 32, 32))
    shapes = []
    for group in model.groups:
        x = group(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]


@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_an_image_does_not_see_the_others(shortcut):
    model = WideResNet(16, 1, in_channels=3, num_classes=10, shortcut=shortcut).double()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(model(images), alone, rtol=1e-10, atol=1e-12)


def test_the_two_shortcuts_differ_in_order_only():
    kinds = {
        order: [
            type(layer).__name__
            for layer in WideResNet(10, 1, in_channels=3, num_classes=2, shortcut=order)
            .groups[1][0]
            .skip
        ]
        for order in SHORTCUTS
    }
    assert kinds == {
        "conv": ["ReLU", "GroupNorm", "WSConv2d"],
        "conv-norm-relu": ["GroupNorm", "ReLU", "WSConv2d"],
    }


@pytest.mark.parametrize("depth", [4, 15, 18])
def test_a_wrong_depth_is_refused(depth):
    with pytest.raises(DpmixError, match=f"depth {depth}"):
        WideResNet(depth, 4, in_channels=3, num_classes=10)


def test_an_unknown_shortcut_is_refused_with_the_nearest():
    with pytest.raises(DpmixError, match="did you mean 'conv-norm-relu'"):
        WideResNet(16, 4, in_channels=3, num_classes=10, shortcut="conv-norm-rel")
