"""The tables that the command line prints."""

import math

from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.summary import plan_rows


def rows(epsilon=2.0, seed=None, multiplier=1, copies=1):
    plan = PrivacyPlan.calibrate(
        n=100, expected_batch_size=50, epsilon=epsilon, delta=1e-4, steps=5,
        sensitivity_multiplier=multiplier,
    )  # fmt: skip
    return plan, dict(plan_rows(plan, "mix-self", seed, copies))


def test_the_plan_is_told_line_by_line():
    plan, told = rows()
    assert told["privacy"] == "epsilon 2.000, delta 0.0001 (add/remove one example)"
    assert f"sigma {plan.noise_multiplier:.4f}" in told["noise"]
    share = math.ceil(1e4 * plan.tradeoff.most_found_at(0.01)) / 100
    assert f"one image took part finds at most {share} % at 1 % false" in told["any test"]
    assert told["sampling"] == "q 0.5, expected batch 50"
    assert not {"seed", "sensitivity", "repeats"} & {*told}


def test_a_seed_a_doubled_sensitivity_and_the_lack_of_privacy_are_said():
    assert "RESEARCH run" in rows(seed=4)[1]["seed"]
    assert "2C" in rows(multiplier=2)[1]["sensitivity"]
    assert rows(copies=9)[1]["repeats"].startswith("one image occurs 9 times: epsilon ")
    assert "repeats" not in rows()[1]
    open_rows = rows(epsilon=math.inf)[1]
    assert "NOT PRIVATE" in open_rows["privacy"] and not {"noise", "any test"} & {*open_rows}
