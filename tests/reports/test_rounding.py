"""Printed epsilons are upper bounds too."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dpmix.reports.statement import shown_epsilon, shown_sigma


def test_rounded_up_and_exact_where_it_can_be():
    assert shown_epsilon(2.0001) == "2.001"
    assert shown_epsilon(2.9999) == "3.000"
    assert shown_epsilon(1.1) == "1.100"
    assert shown_epsilon(0.12345, digits=4) == "0.1235"
    assert shown_epsilon(0.0) == "0.000"
    assert shown_epsilon(math.inf) == "inf"
    assert float(shown_epsilon(1.7e308)) == 1.7e308 and float(shown_sigma(1.7e308)) == 1.7e308


@given(st.floats(0, 1e6), st.integers(0, 6))
def test_never_smaller_and_less_than_one_unit_larger(epsilon, digits):
    shown = float(shown_epsilon(epsilon, digits))
    assert epsilon <= shown < epsilon + 1.001 * 10.0**-digits


def test_no_noise_is_shown_that_is_not_there():
    assert shown_sigma(0.79999) == "0.7999"
    assert shown_sigma(1.5) == "1.5000"
