"""Scales and ticks."""

import pytest

from dpmix.reports.page import PlotArea, ticks


@pytest.mark.parametrize(("top", "expected"), [
    (5, [0, 1, 2, 3, 4, 5]), (3.24, [0, 1, 2, 3]), (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0.013, [0, 0.005, 0.01]), (12000, [0, 5000, 10000]),
])  # fmt: skip
def test_ticks_are_round_and_few(top, expected):
    assert ticks(top) == pytest.approx(expected)


@pytest.mark.parametrize("top", [10.0**k * m for k in range(-6, 7) for m in (1, 1.5, 3.7, 9.99)])
def test_ticks_never_leave_the_chart_nor_fill_it(top):
    found = ticks(top)
    assert 2 <= len(found) <= 6 and found[0] == 0 and found[-1] <= top * (1 + 1e-9)


def test_zero_is_below_and_left_of_the_largest_values():
    area = PlotArea(right=10.0, top=2.0)
    assert area.x(0) < area.x(5) < area.x(10) <= area.width
    assert 0 <= area.y(2) < area.y(1) < area.y(0) <= area.height
    assert area.line([(0.0, 0.0), (10.0, 2.0)]) == (
        f"{area.x(0)},{area.y(0)} {area.x(10)},{area.y(2)}"
    )
