"""The plan: what it fixes, and that data never changes it."""

import dataclasses
import math
import warnings

import pytest
import torch
from torch import nn

from dpmix.data import TensorSource, normalization
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec

QUICK = {"epsilon": 2.0, "delta": 1e-4, "steps": 5}


def calibrated(**changes):
    settings = {"n": 100, "expected_batch_size": 50} | QUICK | changes
    return PrivacyPlan.calibrate(**{k: v for k, v in settings.items() if v is not None})


@pytest.mark.parametrize(("n", "batch"), [(50_000, 4096), (7, 3), (3, 3)])
def test_q_is_exactly_b_over_n_and_the_denominator_exactly_b(n, batch):
    # Opacus takes q = 1 / len(loader): 1/13 for 4,096 of 50,000.
    plan = PrivacyPlan.calibrate(
        n=n, expected_batch_size=batch, epsilon=math.inf, steps=1, delta=1e-5
    )
    assert plan.sampling_rate == batch / n
    assert plan.denominator == batch == pytest.approx(plan.expected_batch_size)
    assert plan.n == n


def test_epsilon_is_at_most_the_target_and_within_half_a_percent():
    plan = calibrated()
    assert 0.995 * 2 < plan.epsilon <= 2
    assert plan.epsilon < plan.epsilon_rdp
    assert plan.epsilon_after(0) == 0 < plan.epsilon_after(1) < plan.epsilon


def test_adding_one_example_changes_neither_denominator_nor_noise():
    """The small-N leak of opacus #571: there N + 1 examples gave another batch size and rate."""
    plan = calibrated(n=10, expected_batch_size=3)
    released = []
    for count in (10, 11):
        pixels = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
        data = TensorSource(pixels, torch.arange(count) % 2, ("a", "b"))
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
        views = ViewBuilder(ViewSpec("none"), 2, normalization("unit", 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        trainer = PrivateTrainer(model, data, plan=plan, views=views, optimizer=optimizer)
        assert trainer._sampler.rate == plan.sampling_rate == 3 / 10
        released.append((trainer._noise.std, trainer._noise.denominator))
    assert released[0] == released[1] == (plan.noise_multiplier, 3)


def test_a_rate_and_a_denominator_need_no_n():
    plan = calibrated(n=None, expected_batch_size=None, sampling_rate=0.5, denominator=7)
    assert (plan.sampling_rate, plan.denominator, plan.n) == (0.5, 7, None)
    assert plan.expected_batch_size is None
    assert plan.noise_multiplier == calibrated().noise_multiplier


def test_sensitivity_2c_doubles_the_noise_and_leaves_sigma():
    one, two = (
        calibrated(max_grad_norm=0.5),
        calibrated(max_grad_norm=0.5, sensitivity_multiplier=2),
    )
    assert one.noise_multiplier == two.noise_multiplier
    assert one.noise_std == 0.5 * one.noise_multiplier
    assert two.noise_std == 2 * one.noise_std


@pytest.mark.parametrize("norm", [5e-324, 1e-165, 1e16])
def test_a_norm_whose_square_is_no_normal_number_is_refused(norm):
    with pytest.raises(DpmixError, match=r"max_grad_norm is .*; expected 1e-15 to 1e15"):
        dataclasses.replace(calibrated(), max_grad_norm=norm)


def test_a_delta_of_one_over_n_or_more_warns_and_says_why():
    with pytest.warns(UserWarning, match=r"not below 1/N = 1\.0e-02.*one whole record"):
        calibrated(delta=0.01, epsilon=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrated(delta=0.0099, epsilon=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epsilon": 0.0}, "epsilon is 0; expected above 0"),
        ({"delta": 0.0}, r"delta is 0; expected in \(0, 1\)"),
        ({"expected_batch_size": 101}, "is 101 but there are only 100 training images"),
        ({"expected_batch_size": math.nan}, "expected_batch_size is nan; expected above 0"),
        ({"n": None}, "give n and expected_batch_size"),
        ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
        ({"delta": 1e-13}, "delta 1e-13 is below what the accountant resolves"),
        ({"steps": None}, "steps is None and epochs is None; give exactly one"),
        ({"steps": None, "epochs": -1}, "epochs is -1; expected above 0"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0; expected above 0"),
        ({"max_grad_norm": math.inf}, "max_grad_norm is infinite"),
        ({"sensitivity_multiplier": 0}, "sensitivity_multiplier is 0; expected 1 or more"),
        ({"prior_releases": (0.0,)}, "a noise multiplier in prior_releases is 0; expected above 0"),
        ({"sampling_rate": 0.1, "denominator": 2}, "not fixed exactly once"),
        (
            {"expected_batch_size": None, "sampling_rate": 1.5, "denominator": 2},
            r"sampling_rate is 1.5; expected in \(0, 1\]",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_meant_is_refused(changes, message):
    with warnings.catch_warnings(), pytest.raises(DpmixError, match=message):
        warnings.simplefilter("ignore")
        calibrated(**changes)


def test_every_epsilon_of_a_plan_includes_prior_releases():
    plain, more = calibrated(), calibrated(prior_releases=(15.0,))
    assert more.prior_releases == (15.0,)
    assert more.noise_multiplier > plain.noise_multiplier
    assert more.epsilon <= more.target_epsilon
    assert 0 < more.epsilon_after(0) < more.epsilon_after(1)
    assert plain.epsilon_after(0) == 0
    without = dataclasses.replace(more, prior_releases=())
    for steps in (1, more.steps):
        assert more.epsilon_after(steps) > without.epsilon_after(steps)
        assert more.epsilon_rdp_after(steps) > without.epsilon_rdp_after(steps)


@pytest.mark.usefixtures("unchecked")
def test_prior_releases_from_an_iterator_count():
    assert calibrated(prior_releases=iter([15.0])) == calibrated(prior_releases=(15.0,))
