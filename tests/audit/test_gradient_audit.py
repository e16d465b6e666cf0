"""Audits of the real trainer: below its claim, and above half of it."""

import math

import numpy as np
import pytest

from audit_subject import audit, plan, trainer
from dpmix.audit.audit import log_likelihood_ratio
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_pld


@pytest.mark.parametrize("changes", [
    {}, {"noise_multiplier": 2.0}, {"noise_multiplier": 4.0, "steps": 4},
    {"noise_multiplier": 2.0, "sampling_rate": 0.5, "steps": 4},
], ids=str)  # fmt: skip
def test_the_bound_lies_below_the_claim_and_above_half_of_it(changes):
    found = audit(plan(**changes))
    assert not found.violated
    assert 0.5 * found.claimed < found.lower_bound < found.claimed
    assert 0.2 * found.claimed < found.one_run


def test_what_is_heard_of_a_canary_is_noise_and_the_canary_alone():
    """Whatever the others' gradients are: the guesser knows them."""
    run_plan = plan(noise_multiplier=1e-6, steps=3)
    subject = trainer(run_plan)
    included = np.arange(8) % 2 == 0
    subject.plant(included, np.arange(0, 4000, 500))
    for _ in range(3):
        subject.step()
        assert subject.heard == pytest.approx(included.astype(float), abs=1e-4)


def test_a_canary_is_drawn_at_the_plans_rate_and_takes_part_in_empty_draws():
    subject = trainer(plan(noise_multiplier=1e-6, sampling_rate=0.3, steps=400), examples=1)
    subject.plant(np.array([True, True, False]), np.array([0, 1, 2]))
    heard = np.stack([(subject.step(), subject.heard)[1] for _ in range(400)]).round()
    assert set(heard[:, :2].flatten()) == {0.0, 1.0} and not heard[:, 2].any()
    drawn = heard[:, :2].mean(axis=0)
    assert abs(drawn - 0.3).max() < 5 * math.sqrt(0.21 / 400)


def test_the_ratio_is_that_of_the_densities():
    run_plan, heard = plan(sampling_rate=0.3, noise_multiplier=1.5), np.array([-1.0, 0.2, 3.0])
    out = np.exp(-(heard**2) / 4.5)
    expected = np.log((0.7 * out + 0.3 * np.exp(-((heard - 1) ** 2) / 4.5)) / out)
    assert log_likelihood_ratio(heard, run_plan) == pytest.approx(expected)


def test_too_many_canaries_and_joined_examples_are_refused():
    with pytest.raises(DpmixError, match="give fewer canaries"):
        audit(plan(), canaries=50_000)
    with pytest.raises(DpmixError, match="can't audit method microbatch-mixup"):
        audit(plan(sensitivity_multiplier=2), method="microbatch-mixup")


def test_the_claim_is_the_plans():
    found = audit(plan(), canaries=10, runs=1)
    assert found.claimed == epsilon_pld(1.0, 1.0, 1, 1e-5) and found.canaries == 10
