"""WSConv2d against its formula, and under the transforms and types that training uses."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, vmap

from dpmix.models.wide_resnet import WSConv2d


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


@pytest.mark.parametrize("groups", [1, 2])
def test_standardized_weight_follows_the_formula(groups):
    conv = WSConv2d(4, 6, 3, groups=groups).double()
    with torch.no_grad():
        conv.gain.uniform_(0.5, 2.0)
        conv.weight[1] = 0.25 + 1e-4 * torch.randn_like(conv.weight[1])  # the floor of var * fan_in
    np.testing.assert_allclose(
        conv.standardized_weight().detach().numpy(), plain_formula(conv), rtol=1e-10, atol=1e-12
    )


def test_forward_is_a_convolution_with_that_weight_and_the_bias():
    conv = WSConv2d(3, 8, 3, stride=2, padding=1).double()
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    weight = torch.from_numpy(plain_formula(conv))
    expected = torch.nn.functional.conv2d(x, weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(x), expected, rtol=1e-9, atol=1e-10)


def test_gradient_matches_finite_differences():
    conv = WSConv2d(2, 3, 3).double()
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64)

    def output(weight, gain, bias):
        return functional_call(conv, {"weight": weight, "gain": gain, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(output, (conv.weight, conv.gain, conv.bias))


def test_starts_with_unit_gain_zero_bias_and_variance_one_over_fan_in():
    torch.manual_seed(0)
    conv = WSConv2d(64, 256, 3)
    assert conv.gain.shape == (256,)
    assert (conv.gain == 1).all()
    assert (conv.bias == 0).all()
    # 147,456 draws: the sample variance is within 2 % by more than five of its standard errors.
    assert conv.weight.var().item() * 64 * 9 == pytest.approx(1.0, rel=0.02)


def test_reset_parameters_resets_the_gain_too():
    conv = WSConv2d(2, 4, 3)
    torch.nn.init.constant_(conv.gain, 7.0)
    conv.reset_parameters()
    assert (conv.gain == 1).all()


def test_bias_can_be_left_out():
    conv = WSConv2d(2, 4, 3, bias=False)
    assert conv.bias is None
    assert conv(torch.zeros(1, 2, 5, 5)).abs().max() == 0


def test_per_example_gradients_under_vmap_equal_the_loop():
    conv = WSConv2d(2, 3, 3).double()
    parameters = {name: p.detach() for name, p in conv.named_parameters()}
    images = torch.randn(4, 2, 6, 6, dtype=torch.float64)

    def loss(params, image):
        return functional_call(conv, params, (image.unsqueeze(0),)).square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(parameters, images)
    for i, image in enumerate(images):
        for name, value in grad(loss)(parameters, image).items():
            torch.testing.assert_close(together[name][i], value)


def test_bfloat16_stays_near_float32():
    conv = WSConv2d(3, 4, 3)
    x = torch.randn(2, 3, 8, 8)
    expected = conv(x).detach()
    low = conv.bfloat16()(x.bfloat16())
    assert low.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: about 0.4 % a factor, three factors and a sum of 27 terms.
    assert (low.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_constant_filter_convolves_to_zero_and_has_a_finite_gradient():
    conv = WSConv2d(2, 3, 3, bias=False)
    torch.nn.init.constant_(conv.weight, 0.5)
    y = conv(torch.randn(1, 2, 5, 5))
    gradients = torch.autograd.grad(y.sum(), (conv.weight, conv.gain))
    assert y.abs().max() == 0
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_keeps_the_memory_layout_of_its_weight():
    conv = WSConv2d(4, 8, 3).to(memory_format=torch.channels_last)
    assert conv.standardized_weight().is_contiguous(memory_format=torch.channels_last)
