"""Plan, sampler, clipping, noise and accountant can't be wired apart through the public API."""

import dataclasses
import inspect
import math

import pytest
import torch

import dpmix
from dpmix.errors import DpmixError
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.trainer import PrivateTrainer
from small_run import linear, plan, source, trainer

WIRED = {"sampling_rate", "noise_multiplier", "noise_std", "sigma", "denominator",
         "max_grad_norm", "sensitivity_multiplier", "delta", "epsilon", "steps"}  # fmt: skip


def parameters(function):
    return set(inspect.signature(function).parameters)


def test_every_public_name_is_known_here():
    """A new one has to be thought through before it is exported."""
    assert set(dpmix.__all__) == {
        "PrivacyPlan", "PrivateTrainer", "ViewBuilder", "ViewSpec", "clipped_gradient_sum", "fit",
        "make_private",
    }  # fmt: skip


def test_the_plan_alone_carries_what_must_agree():
    assert not parameters(PrivateTrainer.__init__) & WIRED
    # Weights are at most 1: they can only lower the plan's rate.
    assert parameters(PoissonSampler.__init__) == {"self", "plan", "examples", "weights"}
    with pytest.raises(DpmixError, match="1 to 2; expected numbers above 0 and at most 1"):
        PoissonSampler(plan(), 2, torch.tensor([1.0, 2.0]).double())
    assert parameters(GaussianNoise.__init__) == {"self", "plan"}
    # It has no noise, no draw and no epsilon: what it returns is a private sum.
    assert parameters(dpmix.clipped_gradient_sum) & WIRED == {"max_grad_norm"}
    assert not parameters(dpmix.ViewBuilder.__init__) & WIRED
    # It takes no number of its own and returns a trainer: there is nothing else to hold.
    assert not parameters(dpmix.make_private) & WIRED
    assert inspect.signature(dpmix.make_private).return_annotation is PrivateTrainer


def test_sampler_and_noise_cannot_be_made_of_numbers(unchecked):
    for make in (lambda: PoissonSampler(0.1, 10), lambda: GaussianNoise(1.0)):
        with pytest.raises(AttributeError):
            make()


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(dpmix.PrivacyPlan)])
def test_no_field_of_a_plan_can_be_set(field):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(plan(), field, 1)


@pytest.mark.parametrize(("changes", "said"), [
    ({"noise_multiplier": 1.0, "max_grad_norm": math.inf}, "max_grad_norm is infinite"),
    ({"sampling_rate": 1.5}, "sampling_rate"),
    ({"denominator": 0.0}, "denominator"),
    ({"steps": -1}, "steps"),
    ({"noise_multiplier": -1.0}, "noise_multiplier"),
    ({"delta": 0.0}, "delta"),
])  # fmt: skip
def test_a_plan_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(DpmixError, match=said):
        plan(**changes)


def test_the_accountant_counts_the_steps_that_the_trainer_took():
    run = trainer(plan(steps=3))
    for step in range(4):
        assert run.steps_done == step
        assert run.plan.epsilon_after(run.steps_done) <= run.plan.epsilon
        if step < 3:
            run.step()
    assert run.plan.epsilon_after(3) == run.plan.epsilon
    with pytest.raises(DpmixError, match="all 3 steps of the plan are done"):
        run.step()


def test_a_loop_that_kept_its_own_backward_pass_is_stopped():
    model, data = linear(), source()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run = trainer(plan(), data, model=model, optimizer=optimizer)
    run.step()
    before = [p.detach().clone() for p in model.parameters()]
    torch.nn.functional.cross_entropy(model(data.pixels.float()), data.labels).backward()
    with pytest.raises(DpmixError, match="gradients that no private step released"):
        optimizer.step()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    run.step()  # drops those gradients
    assert all(p.grad is None for p in model.parameters())


def test_parameters_that_were_added_later_stop_the_step_before_the_release():
    model = linear()
    run = trainer(plan(), model=model)
    model.late = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(DpmixError, match="after the trainer was made"):
        run.step()
    assert model.late.grad is None and run.steps_done == 0
