"""Accuracy by class, with intervals."""

import pytest
from scipy.stats import binomtest

from dpmix.reports.page import MOST_SHOWN, class_bars
from example_facts import facts


def test_the_lowest_comes_first_and_intervals_are_those_of_scipy():
    found = class_bars(facts().metrics)
    shares = [bar.accuracy for bar in found.bars]
    assert shares == sorted(shares) and {bar.name for bar in found.bars} == {"cat", "dog", "eel"}
    for bar in (*found.bars, found.overall):
        right = round(bar.accuracy * bar.images)
        exact = binomtest(right, bar.images).proportion_ci(0.95, "exact")
        assert (bar.low, bar.high) == pytest.approx((exact.low, exact.high))
    assert found.overall.images == 60


@pytest.mark.parametrize(("right", "low", "high"), [(0, 0.0, 0.168), (20, 0.832, 1.0)])
def test_all_or_none_right_has_an_interval_too(right, low, high):
    measured = facts().metrics
    row = {"cat": right} if right else {"dog": 20}
    changed = measured.model_copy(update={
        "confusion": measured.confusion | {"cat": row},
        "class_accuracy": measured.class_accuracy | {"cat": right / 20},
    })  # fmt: skip
    bar = next(bar for bar in class_bars(changed).bars if bar.name == "cat")
    assert (bar.low, bar.high) == pytest.approx((low, high), abs=5e-4)


def test_of_many_classes_some_are_shown():
    assert class_bars(facts([str(i) for i in range(30)]).metrics).shown == MOST_SHOWN
    assert class_bars(facts().metrics).shown == 3
