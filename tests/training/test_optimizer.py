"""Optimisers by name and their schedules."""

import pytest
from torch import nn

from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.settings import OptimizerConfig
from dpmix.training.optimizer import DPAdamBC, build_optimizer, build_schedule

PLAN = PrivacyPlan(
    sampling_rate=0.5, denominator=8.0, steps=4, noise_multiplier=2.0, max_grad_norm=3.0,
    delta=1e-5, sensitivity_multiplier=1, target_epsilon=1.0,
)  # fmt: skip


def built(**settings):
    config = OptimizerConfig(**{"learning_rate": 1.0} | settings)
    return build_optimizer(config, nn.Linear(2, 2), PLAN)


@pytest.mark.parametrize("name", ["Adam", "adam", "AdamW", "RMSprop", "Adagrad", "NAdam"])
def test_any_optimizer_by_name(name):
    optimizer = built(optimizer=name, learning_rate=0.1, weight_decay=0.5)
    assert type(optimizer).__name__.lower() == name.lower()
    assert optimizer.defaults["lr"] == 0.1
    assert optimizer.defaults["weight_decay"] == 0.5


def test_options_reach_the_optimizer_as_yaml_or_mapping():
    assert built(optimizer_options="{nesterov: true}", momentum=0.9).defaults["nesterov"] is True
    assert built(optimizer="Adam", optimizer_options={"eps": 0.1}).defaults["eps"] == 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "Adamm"}, "unknown optimizer 'Adamm': did you mean 'Adam'"),
        ({"optimizer": "LBFGS"}, "unknown optimizer 'LBFGS'"),
        ({"optimizer": "Adam", "momentum": 0.5}, "Adam takes no 'momentum'"),
        ({"optimizer_options": {"nesterv": True}}, "did you mean 'nesterov'"),
        ({"optimizer_options": {"nesterov": True}, "momentum": 0.0}, "SGD refuses its settings"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(DpmixError, match=message):
        built(**settings)


def test_cosine_goes_from_the_rate_to_zero_and_constant_stays():
    rates = {}
    for schedule in ("constant", "cosine"):
        config = OptimizerConfig(learning_rate=2.0, schedule=schedule)
        optimizer = build_optimizer(config, nn.Linear(1, 1), PLAN)
        scheduler = build_schedule(config, optimizer, steps=4)
        seen = []
        for _ in range(5):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        rates[schedule] = seen
    assert rates["constant"] == [2.0] * 5
    half = 2**0.5 / 2
    assert rates["cosine"] == pytest.approx([2.0, 1 + half, 1.0, 1 - half, 0.0], abs=1e-6)


def test_the_corrected_adam_knows_the_noise_of_the_plan():
    optimizer = built(optimizer="DPAdamBC", learning_rate=0.1)
    assert isinstance(optimizer, DPAdamBC)
    assert optimizer.noise_std == 2.0 * 3.0 / 8.0
