"""Every optimizer of a run is followed to the bit."""

import numpy as np
import pytest
import torch

from audit_subject import plan, trainer
from dpmix.audit.release_checks import ReleaseChecks
from dpmix.training.optimizer import OPTIMIZERS, build_optimizer, build_schedule


# Muon trains no bias, and Rprop takes no weight decay, which every run gives.
@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"Muon", "Rprop"}))
def test_weights_and_state_follow_from_the_gradients(name):
    run_plan = plan(steps=3)
    subject = trainer(run_plan, examples=1)
    given = {"lr": 0.05, "weight_decay": 0.0}
    noise_std = run_plan.noise_std / run_plan.denominator
    subject._optimizer = build_optimizer(name, subject.model, noise_std, given)
    build_schedule("constant", subject._optimizer, 3)
    subject.plant(np.array([True, False]), np.array([0, 1]))
    tests = ReleaseChecks(subject)
    for _ in range(3):
        subject.step()
        tests.hear()
    assert all(one.holds for one in tests.found()), [one.found for one in tests.found()]


def test_an_optimizer_that_keeps_other_numbers_is_heard():
    """A twin of Adam that was given other gradients has another state."""
    subject = trainer(plan(steps=2), examples=1)
    subject._optimizer = torch.optim.Adam(subject.model.parameters(), lr=0.0)
    subject.plant(np.array([True]), np.array([0]))
    tests = ReleaseChecks(subject)
    subject.step()
    tests.hear()
    subject.optimizer.state[subject.parameters[1]]["exp_avg_sq"][3] *= 1.0001
    subject.step()
    tests.hear()
    added, gradients, weights = tests.found()
    assert added.holds and gradients.holds and not weights.holds
    assert weights.found == "the optimizer's state does not follow from its gradients"


@pytest.mark.parametrize("kind", ["buffer", "frozen weight"])
def test_what_is_not_trained_stays(kind):
    subject = trainer(plan(), examples=1)
    layer = subject.model[1]
    if kind == "buffer":
        layer.register_buffer("held", torch.zeros(3))
    else:
        layer.held = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    subject.plant(np.array([True]), np.array([0]))
    tests = ReleaseChecks(subject)
    subject.step()
    tests.hear()
    layer.held[1] = 1e-6
    assert [one.holds for one in tests.found()] == [True, True, False]
