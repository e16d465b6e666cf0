"""Each run gets what was best for its row at its place in the grid."""

import pytest

from dpmix.errors import DpmixError
from dpmix.sweeps.grid import load_sweep
from dpmix.sweeps.run import tuned_cells

SWEEP = """
title: t
rows: {a: {method: none}, b: {method: self-aug}}
grid: {epsilon: [1, 8], seed: [0, 1]}
tune: {grid: {learning_rate: [0.5, 2], seed: [7, 8]}, validation_fraction: 0.1}
"""


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return load_sweep(path)


def tried(sweep, accuracy, diverged=lambda *_, **__: False):
    return [
        {
            "row": cell.row,
            **cell.swept,
            "accuracy": accuracy(cell.row, **cell.swept),
            "diverged": diverged(cell.row, **cell.swept),
        }
        for cell in sweep.tries
    ]


def test_the_best_mean_over_seeds_wins_for_each_row_and_epsilon(sweep):
    def accuracy(row, epsilon, learning_rate, seed):
        if row == "a":  # the higher rate has the best single try, and the worse mean
            return {0.5: {7: 0.6, 8: 0.6}, 2: {7: 0.9, 8: 0.1}}[learning_rate][seed]
        return learning_rate if epsilon == 8 else -learning_rate

    cells = tuned_cells(sweep, tried(sweep, accuracy))
    chosen = {(c.row, c.swept["epsilon"], c.config.optimizer.learning_rate) for c in cells}
    assert chosen == {("a", 1, 0.5), ("a", 8, 0.5), ("b", 1, 0.5), ("b", 8, 2)}
    assert [cell.swept["seed"] for cell in cells] == [0, 1] * 4
    assert cells[0].tuned == {"learning_rate": 0.5} and "learning_rate" not in cells[0].swept


def test_the_first_of_equals_wins(sweep):
    cells = tuned_cells(sweep, tried(sweep, lambda *_, **__: 0.5))
    assert {cell.config.optimizer.learning_rate for cell in cells} == {0.5}


def test_values_with_a_try_that_diverged_lose_to_all_without(sweep):
    def accuracy(row, epsilon, learning_rate, seed):
        return 0.9 if learning_rate == 0.5 else 0.1

    def diverged(row, epsilon, learning_rate, seed):
        return learning_rate == 0.5 and seed == 8

    cells = tuned_cells(sweep, tried(sweep, accuracy, diverged))
    assert {cell.config.optimizer.learning_rate for cell in cells} == {2}


def test_a_row_whose_tries_all_failed_is_named(sweep):
    rows = [row for row in tried(sweep, lambda *_, **__: 0.5) if row["row"] == "a"]
    with pytest.raises(DpmixError, match=r"row 'b' at {'epsilon': 1}: none of its tries"):
        tuned_cells(sweep, rows)
