"""What a run claims comes from its plan, and from nowhere else; no number is rounded favourably."""

import dataclasses
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpmix.errors import DpmixError
from dpmix.pool.load import PoolFacts
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.guarantee import privacy_statement, public_inputs
from dpmix.reports.statement import (
    parse_statement,
    read_statement,
    shown_epsilon,
    shown_sigma,
    statement_text,
)
from dpmix.runs.config import Config

PLAN = PrivacyPlan(
    sampling_rate=0.25, denominator=25.0, steps=4, noise_multiplier=2.0, max_grad_norm=0.5,
    delta=1e-4, sensitivity_multiplier=2, target_epsilon=3.0, n=100,
)  # fmt: skip
OPEN = dataclasses.replace(PLAN, noise_multiplier=0.0, max_grad_norm=math.inf)


def stated(plan=PLAN, *, steps=4, facts=None, **settings):
    """The statement of a run without a backbone."""
    settings = Config.load(**{"method": "none"} | settings).model_dump(mode="json")
    return privacy_statement(
        settings, plan, public_inputs(settings, facts, None), steps=steps, weights_sha256="a" * 64,
        config_sha256="c" * 64, run_id="r",
    )  # fmt: skip


def test_what_a_test_can_find_is_that_of_all_planned_steps():
    found = stated(steps=2).membership
    assert found == stated().membership
    assert found.found_at_1_percent == PLAN.tradeoff.most_found_at(0.01)
    assert found.found_at_0_1_percent == PLAN.tradeoff.most_found_at(0.001)
    assert 0.5 < found.best_guess == PLAN.tradeoff.best_guess < 1
    nearest = PLAN.tradeoff.gaussian(PLAN.delta)
    assert (found.mu, found.mu_gap) == (nearest and nearest.mu, nearest and nearest.gap)
    assert stated(OPEN).membership is None


def test_every_number_is_the_plans_whatever_the_settings_say():
    found = stated(epsilon=0.1, delta=1e-9, max_grad_norm=77, expected_batch_size=1)
    assert (found.epsilon, found.epsilon_rdp) == (PLAN.epsilon, PLAN.epsilon_rdp)
    for name in ("sampling_rate", "denominator", "noise_multiplier", "max_grad_norm", "delta"):
        assert getattr(found, name) == getattr(PLAN, name)
    assert (found.examples, found.sensitivity, found.noise_std) == (100, 1.0, 2.0)
    assert found.neighbouring_relation == "add or remove one training example"
    assert found.private and found.complete
    # The day, and not how long its steps took.
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found.written)


@pytest.mark.parametrize("plan", [
    PLAN, dataclasses.replace(PLAN, prior_releases=(20.0,)),
    dataclasses.replace(PLAN, expected_runs=3.0),
])  # fmt: skip
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_wherever_a_run_is_stopped_its_epsilon_is_that_of_the_plan(plan, steps):
    """It may have been stopped for what it showed, and of fewer steps epsilon is then too small."""
    found = stated(plan, steps=steps)
    assert (found.steps, found.planned_steps, found.complete) == (steps, 4, steps == 4)
    assert (found.epsilon, found.epsilon_rdp) == (plan.epsilon, plan.epsilon_rdp)
    at_stop = found.epsilon_at_fixed_stop
    assert at_stop == (None if steps == 4 else plan.epsilon_after(steps))
    assert found.guarantee.startswith(f"The model is ({shown_epsilon(plan.epsilon)}, ")
    conditional = "holds only if it was fixed beforehand to stop here"
    assert (conditional in found.guarantee) == (steps < 4)
    if at_stop is not None:
        assert f"Epsilon {shown_epsilon(at_stop)} {conditional}" in found.guarantee


def test_what_is_written_is_read_and_every_edit_is_refused(tmp_path):
    path, text = tmp_path / "privacy.json", statement_text(stated())
    path.write_text(text)
    assert read_statement(path) == stated()
    for old, new, said in (
        ('"run_id": "r"', '"run_id": "s"', "was changed since it was written"),
        ("{", '{"epsilon": 0.1, ', "'epsilon' occurs twice"),
        ('"steps": 4', '"steps": 4.5', "steps: "),
        ('"delta": 0.0001', '"delta": 2', "delta: "),
        ('"seeded": false,', "", "seeded: Field required"),
        ("{", '{"extra": 1, ', "extra: Extra inputs"),
    ):
        assert old in text
        with pytest.raises(DpmixError, match=said):
            parse_statement(text.replace(old, new, 1), path)


def test_without_privacy_there_is_no_epsilon_and_no_assumption(tmp_path):
    found = stated(OPEN, steps=1)
    assert (found.epsilon, found.max_grad_norm, found.epsilon_at_fixed_stop) == ("inf", "inf", None)
    assert found.guarantee.startswith("NOT PRIVATE") and found.assumptions == []
    assert parse_statement(statement_text(found), tmp_path) == found


@pytest.mark.parametrize(("plan", "settings", "holds", "not_held"), [
    (PLAN, {}, ["N is public", "The test split is not protected"], ["by their places"]),
    (dataclasses.replace(PLAN, n=None), {}, ["denominator were chosen without"], ["N is public"]),
    (PLAN, {"validation_fraction": 0.1}, ["The validation images", "by their places"],
     ["The test split"]),
    (PLAN, {"train_images": 50}, ["The test split", "by their places"], []),
    (PLAN, {"seed": 3}, ["Nobody knows the seed"], ["operating system"]),
])  # fmt: skip
def test_what_the_guarantee_assumes_is_stated(plan, settings, holds, not_held):
    said = " ".join(stated(plan, **settings).assumptions)
    assert all(words in said for words in holds)
    assert not any(words in said for words in not_held)


@pytest.mark.parametrize(("role", "use"), [
    ("mix", {"draw": "uniform"}), ("pretrain", {"epochs": 20}),
])  # fmt: skip
def test_the_pool_is_stated_by_what_is_known_of_it_and_not_by_its_place(role, use):
    facts = PoolFacts("cats", 7, "a" * 64, "bb", "painter at 1234", "openrail")
    found = stated(facts=facts, method="mix-diff", pool="/home/alice/cats", pool_role=role)
    pool = found.public_inputs.pool.model_dump()
    assert pool == {**facts.as_dict(), "role": role, **use}
    assert "alice" not in statement_text(found)


def test_epsilon_is_rounded_up_and_exact_where_it_can_be():
    assert [shown_epsilon(value) for value in (2.0001, 2.9999, 1.1, 0.0, math.inf, "inf")] == [
        "2.001", "3.000", "1.100", "0.000", "inf", "inf",
    ]  # fmt: skip
    assert shown_epsilon(0.12345, digits=4) == "0.1235"
    assert float(shown_epsilon(1.7e308)) == 1.7e308 and float(shown_sigma(1.7e308)) == 1.7e308
    assert (shown_sigma(0.79999), shown_sigma(1.5)) == ("0.7999", "1.5000")


@given(st.floats(0, 1e6), st.integers(0, 6))
def test_never_smaller_and_less_than_one_unit_larger(epsilon, digits):
    shown = float(shown_epsilon(epsilon, digits))
    assert epsilon <= shown < epsilon + 1.001 * 10.0**-digits
