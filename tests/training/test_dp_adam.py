"""Adam with the noise taken off its second moment."""

import pytest
import torch
from torch import nn

from dpmix.training.optimizer import DPAdamBC


def steps(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach().clone()


def pair(build_one, build_two, count=20, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    gradients = [scale * torch.randn(7, generator=generator) for _ in range(count)]
    results = []
    for build in (build_one, build_two):
        parameter = nn.Parameter(torch.ones(7))
        results.append(steps(build([parameter]), parameter, gradients))
    return results


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_without_noise_it_is_adamw(decay):
    ours, torchs = pair(
        lambda p: DPAdamBC(p, lr=0.1, weight_decay=decay),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=decay),
    )
    assert torch.allclose(ours, torchs, atol=1e-5)


def test_the_known_noise_is_taken_off_the_second_moment():
    """With a constant gradient g under noise s, the step tends to lr * sign(g), not less."""
    generator = torch.Generator().manual_seed(1)
    noise_std, gradient = 1.0, 0.3
    moved = {}
    for corrected in (0.0, noise_std):
        parameter = nn.Parameter(torch.zeros(2000))
        optimizer = DPAdamBC([parameter], lr=1.0, betas=(0.99, 0.999), noise_std=corrected)
        noisy = (gradient + noise_std * torch.randn(2000, generator=generator) for _ in range(1500))
        before = steps(optimizer, parameter, noisy)
        rest = (gradient + noise_std * torch.randn(2000, generator=generator) for _ in range(300))
        moved[corrected] = float((before - steps(optimizer, parameter, rest)).mean() / 300)
    # Root mean square of the noisy gradient is 1.04, of the gradient itself 0.3.
    assert moved[0.0] == pytest.approx(0.3 / 1.044, rel=0.1)
    assert moved[noise_std] > 2 * moved[0.0]


def test_a_parameter_without_a_gradient_stays():
    parameter = nn.Parameter(torch.ones(2))
    DPAdamBC([parameter], lr=1.0).step()
    assert torch.equal(parameter.detach(), torch.ones(2))
