"""What a run claims comes from its plan, and from nowhere else."""

import dataclasses
import math
import re

import pytest

from dpmix.errors import DpmixError
from dpmix.files import to_json
from dpmix.pool.load import PoolFacts
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.statement import (
    assumptions,
    guarantee,
    privacy_statement,
    read_statement,
    seal,
    shown_epsilon,
)
from dpmix.runs.config import Config

PLAN = PrivacyPlan(
    sampling_rate=0.25,
    denominator=25.0,
    steps=4,
    noise_multiplier=2.0,
    max_grad_norm=0.5,
    delta=1e-4,
    sensitivity_multiplier=2,
    target_epsilon=3.0,
    n=100,
)


def stated(config, plan, *, steps):
    """The statement of a run without pool or backbone."""
    return privacy_statement(
        config, plan, pool=None, backbone=None, steps=steps, weights_sha256="ab",
        config_sha256="cd", run_id="r",
    )  # fmt: skip


def test_every_number_is_the_plans_whatever_the_settings_say():
    config = Config.load(epsilon=0.1, delta=1e-9, max_grad_norm=77, expected_batch_size=1)
    said = stated(config, PLAN, steps=4)
    assert said["epsilon"] == PLAN.epsilon
    assert said["epsilon_rdp"] == pytest.approx(PLAN.epsilon_rdp)
    for name in ("sampling_rate", "denominator", "noise_multiplier", "max_grad_norm", "delta"):
        assert said[name] == getattr(PLAN, name)
    assert said["examples"] == 100
    assert said["sensitivity"] == 1.0
    assert said["noise_std"] == 2.0
    assert said["neighbouring_relation"] == "add or remove one training example"
    assert said["private"] and said["complete"]


@pytest.mark.parametrize("plan", [
    PLAN, dataclasses.replace(PLAN, prior_releases=(20.0,)),
    dataclasses.replace(PLAN, expected_runs=3.0),
])  # fmt: skip
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_wherever_a_run_is_stopped_its_epsilon_is_that_of_the_plan(plan, steps):
    """It may have been stopped for what it showed, and of fewer steps epsilon is then too small."""
    said = stated(Config.load(), plan, steps=steps)
    assert (said["steps"], said["planned_steps"], said["complete"]) == (steps, 4, steps == 4)
    assert said["epsilon"] == plan.epsilon and said["epsilon_rdp"] == plan.epsilon_rdp
    at_stop = said["epsilon_at_fixed_stop"]
    assert at_stop == (None if steps == 4 else plan.epsilon_after(steps))
    sentence = said["guarantee"]
    assert sentence.startswith(f"The model is ({shown_epsilon(plan.epsilon)}, ")
    conditional = "holds only if it was fixed beforehand to stop here"
    assert (conditional in sentence) == (steps < 4)
    if at_stop is not None:
        assert f"Epsilon {shown_epsilon(at_stop)} {conditional}" in sentence
        assert sentence.count(shown_epsilon(at_stop)) == 1


@pytest.mark.parametrize("steps", [1, 4])
def test_a_statement_of_a_stop_without_its_condition_is_not_read(tmp_path, steps):
    """As earlier versions wrote it: the epsilon of the steps so far, and no word more."""
    path = tmp_path / "privacy.json"
    said = stated(Config.load(method="none"), PLAN, steps=steps) | {"weights_sha256": "0" * 64}
    said |= {"config_sha256": "0" * 64, "epsilon": PLAN.epsilon_after(steps)}
    earlier = {name: said[name] for name in said if name != "epsilon_at_fixed_stop"}
    path.write_text(to_json(seal(earlier)))
    if steps == 4:
        assert read_statement(path).epsilon == PLAN.epsilon
        return
    with pytest.raises(DpmixError, match=r"epsilon_at_fixed_stop is None.*dpmix train --resume"):
        read_statement(path)


def test_without_privacy_a_stop_has_no_epsilon():
    open_plan = dataclasses.replace(PLAN, noise_multiplier=0.0, max_grad_norm=math.inf)
    said = stated(Config.load(), open_plan, steps=1)
    assert said["epsilon"] == math.inf and said["epsilon_at_fixed_stop"] is None


def test_a_statement_tells_the_day_and_not_how_long_steps_took():
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", stated(Config.load(), PLAN, steps=4)["written"])


def test_the_sentence_names_both_numbers_a_seed_and_the_lack_of_privacy():
    assert guarantee(PLAN, 2.5, None) == (
        "The model is (2.500, 0.0001)-differentially private with respect to adding or removing "
        "one training example."
    )
    assert "SEEDED (5)" in guarantee(PLAN, 2.5, 5)
    open_plan = dataclasses.replace(PLAN, noise_multiplier=0.0, max_grad_norm=math.inf)
    assert guarantee(open_plan, math.inf, None).startswith("NOT PRIVATE")


def test_the_sentence_never_rounds_epsilon_down():
    assert "(2.001, " in guarantee(PLAN, 2.0001, None)


def test_delta_is_said_in_full():
    plan = dataclasses.replace(PLAN, delta=1.0000049e-05)
    assert "1.0000049e-05" in guarantee(plan, 2.0, None)


def test_n_is_called_public_only_where_it_is():
    assert any("N is public" in said for said in assumptions(Config.load(), PLAN))
    hidden = dataclasses.replace(PLAN, n=None)
    said = assumptions(Config.load(), hidden)
    assert not any("N is public" in one for one in said)
    assert any("denominator were chosen without looking" in one for one in said)


@pytest.mark.parametrize(
    ("settings", "validation", "part"),
    [
        ({}, False, False),
        ({"classes": 3}, False, False),
        ({"validation_fraction": 0.1}, True, True),
        ({"train_images": 50}, False, True),
    ],
)
def test_what_is_held_out_or_left_out_is_said(settings, validation, part):
    said = " ".join(assumptions(Config.load(**settings), PLAN))
    assert ("The validation images, a fixed share" in said) == validation
    assert ("The test split is not protected" in said) != validation
    assert ("chosen by their places in it alone" in said) == part


def test_what_was_spent_before_is_in_every_epsilon_and_said():
    spent = dataclasses.replace(PLAN, prior_releases=(20.0, 30.0))
    said = stated(Config.load(), spent, steps=1)
    assert said["epsilon"] == spent.epsilon > PLAN.epsilon
    assert said["epsilon_rdp"] == spent.epsilon_rdp > PLAN.epsilon_rdp
    assert said["epsilon_at_fixed_stop"] == spent.epsilon_after(1) > PLAN.epsilon_after(1)
    assert said["spent_before"] == [20.0, 30.0]
    assert "That includes 2 earlier release(s)" in said["guarantee"]
    assert any("chosen by the earlier releases" in one for one in said["assumptions"])
    assert any("No other release" in one for one in said["assumptions"])


@pytest.mark.parametrize(("role", "weights"), [("mix", None), ("pretrain", "the public pool")])
def test_weights_that_were_pretrained_on_the_pool_are_stated(role, weights):
    facts = PoolFacts("cats", 7, "aa", None, None, None)
    config = Config.load(pool="cats", pool_role=role)
    said = privacy_statement(
        config,
        PLAN,
        pool=facts,
        backbone=None,
        steps=4,
        weights_sha256="ab",
        config_sha256="cd",
        run_id="r",
    )
    assert said["public_inputs"]["pretrained_weights"] == weights
    use = {"role": "mix", "draw": "uniform"} if role == "mix" else {"role": role, "epochs": 20}
    assert said["public_inputs"]["pool"] == facts.as_dict() | use


def test_the_pool_is_stated_by_what_is_known_of_it():
    facts = PoolFacts("cats", 7, "aa", "bb", "painter at 1234", "openrail")
    config = Config.load(method="mix-diff", pool="/home/alice/cats", pool_role="extra")
    said = privacy_statement(
        config,
        PLAN,
        pool=facts,
        backbone=None,
        steps=4,
        weights_sha256="ab",
        config_sha256="cd",
        run_id="r",
    )
    assert said["public_inputs"]["pool"] == facts.as_dict() | {"role": "extra", "draw": "uniform"}
    assert "alice" not in str(said)
