"""Choosing the best of k runs spends more than a run's epsilon; how much, by known cases."""

import math

import pytest

from dpmix.experiments.choosing_cost import choosing_costs, epsilon_of_all
from dpmix.privacy.accounting import epsilon_rdp
from dpmix.privacy.private_selection import epsilon_selected


def row(epsilon=3.0, sigma=2.0, steps=50, private=True):
    return {"epsilon": epsilon, "sigma": sigma, "steps": steps, "sampling_rate": 0.1,
            "private": private}  # fmt: skip


def test_k_equal_runs_cost_one_of_k_times_the_steps():
    assert epsilon_of_all([(0.1, 2.0, 50)] * 4, 1e-5) == epsilon_rdp(0.1, 2.0, 200, 1e-5)


def test_unlike_runs_compose():
    both = epsilon_of_all([(0.1, 2.0, 50), (0.1, 4.0, 50)], 1e-5)
    one = epsilon_rdp(0.1, 2.0, 50, 1e-5)
    assert one < both < 2 * one


def test_a_run_without_noise_leaves_no_epsilon():
    assert epsilon_of_all([(0.1, 0.0, 50)], 1e-5) == math.inf


def test_costs_are_stated_for_each_epsilon_and_private_runs_alone():
    rows = [row(), row(), row(8.0, sigma=1.0), row(math.inf, sigma=0.0, private=False)]
    three, eight = choosing_costs(rows, 1e-5)
    assert (three.epsilon, three.runs) == (3.0, 2)
    assert (eight.epsilon, eight.runs) == (8.0, 1)
    assert three.all_of_them == epsilon_rdp(0.1, 2.0, 100, 1e-5)
    assert three.by_selection == pytest.approx(epsilon_selected(0.1, 2.0, 50, 1e-5, 2))
