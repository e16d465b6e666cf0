"""Epsilon against steps is the plan's own."""

import re

import numpy as np
import pytest

from dpmix.privacy.accounting import epsilon_pld
from dpmix.reports.figures import (
    confusion_figure,
    epsilon_curve,
    epsilon_figure,
    tradeoff_figure,
)
from example_facts import facts, not_private


def test_the_curve_ends_at_the_stated_epsilon_and_shows_the_steep_start():
    told = facts(steps=200, done=45).statement
    steps, epsilons = zip(*epsilon_curve(told), strict=True)
    assert steps[:3] == (0, 1, 2) and steps[-1] == 200
    assert epsilons[0] == 0 and epsilons[-1] == told.epsilon
    assert epsilons[steps.index(45)] == told.epsilon_at_fixed_stop
    assert sorted(epsilons) == [*epsilons]
    # The line between points does not hide how steep the first steps are.
    for step in (2, 8, 150):
        true = epsilon_pld(told.sampling_rate, told.noise_multiplier, step, told.delta)
        assert 0.85 * true < np.interp(step, steps, epsilons) <= true
    assert "stroke-dasharray" in epsilon_figure([told])


def test_there_is_no_curve_without_privacy():
    assert epsilon_figure([not_private().statement]) is None
    assert tradeoff_figure(not_private().statement) is None


def test_the_trade_off_curve_is_drawn_at_the_stated_shares():
    told = facts(steps=50, done=20).statement
    drawn = re.findall(
        r'd="(M [^"]*)" clip-path="[^"]*" style="fill: none; st', tradeoff_figure(told)
    )
    lines = [np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path), float) for path in drawn[-2:]]
    (left, low), (right, high) = lines[0][[0, -1]]  # guessing, from 0.01 to 100 %
    for fpr, share in ((0.01, told.membership.found_at_1_percent),
                       (0.001, told.membership.found_at_0_1_percent)):  # fmt: skip
        place = left + (right - left) * (np.log10(fpr) + 4) / 4
        height = np.interp(place, *lines[1].T)
        assert (height - low) / (high - low) == pytest.approx(share, abs=2e-3)


def test_names_in_the_matrix_stay_different_and_many_have_no_room():
    alike = ("adenocarcinoma of the left lung", "adenocarcinoma of the right lung")
    figure = confusion_figure(facts(alike).metrics)
    assert "adenocarcin…he left lung" in figure and "adenocarcin…e right lung" in figure
    assert "class 1" not in confusion_figure(facts([f"class {i}" for i in range(40)]).metrics)
