"""Epsilon against steps: the plan's own, never less."""

import numpy as np

from dpmix.privacy.accounting import epsilon_pld
from dpmix.reports.page import epsilon_curve
from example_facts import facts, not_private


def test_it_rises_from_nothing_to_the_stated_epsilon():
    said = facts(steps=7).statement
    curve = epsilon_curve(said)
    assert curve.spent[0] == (0, 0) and curve.spent[-1] == (7, said.epsilon)
    assert [step for step, _ in curve.spent] == list(range(8))
    assert sorted(epsilon for _, epsilon in curve.spent) == [epsilon for _, epsilon in curve.spent]
    assert curve.planned == [] and curve.whole == curve.spent


def test_many_steps_have_few_points_and_those_to_come_are_told_apart():
    said = facts(steps=200, done=45).statement
    curve = epsilon_curve(said)
    assert curve.spent[-1] == (45, said.epsilon_at_fixed_stop) == curve.planned[0]
    assert [step for step, _ in curve.planned] == [45, *range(60, 201, 20)]
    assert curve.planned[-1] == (200, said.epsilon)
    assert [step for step, _ in curve.whole] == [0, 1, 4, 16, 20, 40, 45, *range(60, 201, 20)]
    # The line between points does not hide how steep the first steps are.
    steps, epsilons = zip(*curve.whole, strict=True)
    for step in (2, 8):
        true = epsilon_pld(said.sampling_rate, said.noise_multiplier, step, said.delta)
        assert 0.85 * true < np.interp(step, steps, epsilons) < true


def test_there_is_none_without_privacy():
    assert epsilon_curve(not_private().statement) is None
