"""Choosing the best of k runs spends more than a run's epsilon; how much, by known cases."""

import math

import pytest

import dpmix
from dpmix.privacy.accounting import epsilon_pld
from dpmix.privacy.selection import epsilon_selected
from dpmix.reports.statement import read_statement
from dpmix.sweeps.cost import choosing_costs
from example_facts import write_run


def test_costs_are_those_of_every_run_in_the_folder(tmp_path):
    for name, epsilon in (("a", 3.0), ("b", 3.0), ("c", 8.0)):
        write_run(tmp_path / name, epsilon=epsilon, seed=0 if name == "c" else None)
    three, eight, every = choosing_costs(tmp_path)
    assert [cost.epsilon for cost in (three, eight, every)] == [3.0, 8.0, None]
    assert [cost.runs for cost in (three, eight, every)] == [2, 1, 3]
    sigma = read_statement(tmp_path / "a" / "privacy.json").noise_multiplier
    assert three.all_of_them == epsilon_pld(0.5, sigma, 10, 1e-4)
    assert three.by_selection == pytest.approx(epsilon_selected(0.5, sigma, 5, 1e-4, 2))
    assert every.all_of_them > eight.all_of_them and every.by_selection is None
    assert [cost.seeded for cost in (three, eight, every)] == [False, True, True]
    assert every.all_of_them < three.all_of_them + eight.all_of_them
    write_run(tmp_path / "d", epsilon=math.inf)
    *_, every = choosing_costs(tmp_path)
    assert (every.runs, every.all_of_them) == (4, math.inf)


def test_runs_of_unlike_plans_have_no_selection(tmp_path):
    """The theorem is about one mechanism: the larger epsilon of the two would be too small."""
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", steps=9)
    (both,) = choosing_costs(tmp_path)
    assert both.runs == 2 and both.by_selection is None


def test_a_run_that_was_killed_while_it_published_is_counted(tmp_path, image_root, quick):
    run = dpmix.fit(data=str(image_root), output=str(tmp_path / "runs" / "a"), **quick)
    before = choosing_costs(tmp_path / "runs")
    for name in ("privacy.json", "config.yaml"):
        (run.folder / name).unlink()
    assert choosing_costs(tmp_path / "runs") == before and before[0].runs == 1
