"""The order in which a sweep's runs are made."""

from dpmix.sweeps.grid import Cell
from dpmix.sweeps.run import in_turns


def test_rows_take_turns_and_each_keeps_its_order():
    cells = [Cell(row, {"seed": seed}, {}, None) for row, count in (("a", 3), ("b", 1), ("c", 2))
             for seed in range(count)]  # fmt: skip
    order = [(cell.row, cell.swept["seed"]) for cell in in_turns(cells)]
    assert order == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1), ("a", 2)]
