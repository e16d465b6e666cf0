"""Optimizers by name, their schedules, and Adam corrected for the noise."""

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.training.optimizer import DPAdamBC, build_optimizer, build_schedule


def built(name="SGD", noise_std=1.0, **arguments):
    return build_optimizer(name, nn.Linear(2, 2), noise_std, {"lr": 1.0} | arguments)


@pytest.mark.parametrize("name", ["SGD", "adam", "RMSprop"])
def test_any_optimizer_by_name(name):
    optimizer = built(name, lr=0.1, weight_decay=0.5, momentum=None)
    assert type(optimizer).__name__.lower() == name.lower()
    assert optimizer.defaults["lr"] == 0.1 and optimizer.defaults["weight_decay"] == 0.5


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("Adamm", {}, "unknown optimizer 'Adamm': did you mean 'Adam'"),
        ("LBFGS", {}, "unknown optimizer 'LBFGS'"),
        ("Adam", {"momentum": 0.5}, "Adam takes no 'momentum'"),
        ("SGD", {"nesterv": True}, "did you mean 'nesterov'"),
        ("SGD", {"params": []}, "SGD takes no 'params'"),
        ("SGD", {"nesterov": True, "momentum": 0.0}, "SGD refuses its settings"),
    ],
)
def test_what_does_not_fit_is_refused(name, arguments, message):
    with pytest.raises(DpmixError, match=message):
        built(name, **arguments)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [2.0] * 5),
        ("cosine", [2.0, 1 + 2**-0.5, 1.0, 1 - 2**-0.5, 0.0]),
    ],
)
def test_cosine_goes_from_the_rate_to_zero_and_constant_stays(schedule, rates):
    optimizer = built(lr=2.0)
    scheduler = build_schedule(schedule, optimizer, steps=4)
    seen = []
    for _ in range(5):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(rates, abs=1e-6)


def steps(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach().clone()


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_corrected_adam_without_noise_is_adamw(decay):
    results = []
    for kind in (DPAdamBC, torch.optim.AdamW):
        generator = torch.Generator().manual_seed(0)
        parameter = nn.Parameter(torch.ones(7))
        gradients = [torch.randn(7, generator=generator) for _ in range(20)]
        results.append(steps(kind([parameter], lr=0.1, weight_decay=decay), parameter, gradients))
    assert torch.allclose(*results, atol=1e-5)


def test_the_known_noise_is_subtracted_from_the_second_moment():
    """With a constant gradient g under noise s, the step tends to lr * sign(g), not less."""
    generator = torch.Generator().manual_seed(1)
    gradient, moved = 0.3, {}
    for corrected in (0.0, 1.0):
        parameter = nn.Parameter(torch.zeros(2000))
        optimizer = DPAdamBC([parameter], lr=1.0, betas=(0.99, 0.999), noise_std=corrected)
        noisy = (gradient + torch.randn(2000, generator=generator) for _ in range(1500))
        before = steps(optimizer, parameter, noisy)
        rest = (gradient + torch.randn(2000, generator=generator) for _ in range(300))
        moved[corrected] = float((before - steps(optimizer, parameter, rest)).mean() / 300)
    # Root mean square of the noisy gradient is 1.04, of the gradient itself 0.3.
    assert moved[0.0] == pytest.approx(0.3 / 1.044, rel=0.1)
    assert moved[1.0] > 2 * moved[0.0]


def test_the_corrected_adam_knows_the_noise_and_leaves_what_has_no_gradient():
    optimizer = built("dpadambc", noise_std=0.75)
    assert isinstance(optimizer, DPAdamBC) and optimizer.noise_std == 0.75
    (weight, _), before = optimizer.param_groups[0]["params"], None
    before = weight.detach().clone()
    optimizer.step()
    assert torch.equal(weight, before)
