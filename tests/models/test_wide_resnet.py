"""The wide ResNets: shape, size and independence; WSConv2d against its formula."""

import numpy as np
import pytest
import torch

from dpmix.models.registry import parameter_count
from dpmix.models.wide_resnet import SHORTCUTS, WideResNet, WSConv2d


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
@pytest.mark.parametrize(("size", "channels"), [(28, 1), (45, 3)])
def test_logits_for_any_size_of_each_image_alone_reach_every_parameter(size, channels, shortcut):
    torch.manual_seed(0)
    model = WideResNet(16, 1, in_channels=channels, num_classes=7, shortcut=shortcut).double()
    images = torch.randn(3, channels, size, size, dtype=torch.float64)
    logits = model(images)
    assert logits.shape == (3, 7)
    alone = torch.cat([model(image.unsqueeze(0)) for image in images])
    torch.testing.assert_close(logits, alone, rtol=1e-10, atol=1e-12)
    torch.nn.functional.cross_entropy(logits, torch.tensor([1, 6, 0])).backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert idle == []


def plain_formula(conv: WSConv2d) -> np.ndarray:
    """Standardise one output channel at a time in NumPy, float64."""
    weight = conv.weight.detach().double().numpy()
    out = np.empty_like(weight)
    for channel, w in enumerate(weight):
        centred = w - w.sum() / w.size
        var = (centred**2).sum() / w.size
        gain = float(conv.gain[channel].detach())
        out[channel] = centred * gain / np.sqrt(max(var * w.size, 1e-4))
    return out


def test_it_convolves_with_the_weight_of_the_formula_and_the_bias():
    conv = WSConv2d(4, 6, 3, stride=2, padding=1).double()
    torch.nn.init.normal_(conv.bias)
    with torch.no_grad():
        conv.gain.uniform_(0.5, 2.0)
        conv.weight[1] = 0.25 + 1e-4 * torch.randn_like(conv.weight[1])  # the floor of var * fan_in
    x, weight = torch.randn(2, 4, 9, 9, dtype=torch.float64), torch.from_numpy(plain_formula(conv))
    torch.testing.assert_close(conv.standardized_weight(), weight, rtol=1e-10, atol=1e-12)
    expected = torch.nn.functional.conv2d(x, weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-9, atol=1e-10)


def test_starts_with_unit_gain_zero_bias_and_variance_one_over_fan_in():
    torch.manual_seed(0)
    conv = WSConv2d(64, 256, 3)
    assert (conv.gain == 1).all() and conv.gain.shape == (256,)
    assert (conv.bias == 0).all()
    # 147,456 draws: the sample variance is within 2 % by more than five of its standard errors.
    assert conv.weight.var().item() * 64 * 9 == pytest.approx(1.0, rel=0.02)
