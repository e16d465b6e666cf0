"""Settings chosen by a sweep's tries, the same number of them for every row.

The tries are judged on training images that were held out, so that the test images are used once.
"""

import statistics
from collections import defaultdict
from dataclasses import replace

from dpmix.errors import DpmixError
from dpmix.experiments.results import Row
from dpmix.experiments.sweep_file import SEED, Cell, Settings, Sweep
from dpmix.training.json_text import to_json

TRIES = "tuning.csv"
Scores = dict[str, dict[str, list[tuple[bool, float]]]]
"""Whether each try diverged, and its accuracy, by its row and grid values, then by its settings."""


def tuned_cells(sweep: Sweep, tried: list[Row]) -> tuple[Cell, ...]:
    """The sweep's runs, each with the values that had the best mean accuracy over its tries' seeds.

    Args:
        sweep: with tries.
        tried: their results. Among equals the first in the file's order wins, and values with a
            try that diverged lose to all without: its accuracy means nothing.

    Raises:
        DpmixError: a run for which no try came to its end.
    """
    scores: Scores = defaultdict(lambda: defaultdict(list))
    values: dict[str, Settings] = {}
    names = sweep.cells[0].swept.keys() - {SEED}
    for row in tried:
        chosen = {name: row[name] for name in sweep.tuned}
        values[to_json(chosen)] = chosen
        group = to_json([row["row"], {name: row[name] for name in sorted(names)}])
        scores[group][to_json(chosen)].append((row["diverged"], row["accuracy"]))
    return tuple(_tuned(cell, scores, values) for cell in sweep.cells)


def _tuned(cell: Cell, scores: Scores, values: dict[str, Settings]) -> Cell:
    place = {name: value for name, value in sorted(cell.swept.items()) if name != SEED}
    found = scores.get(to_json([cell.row, place]))
    if not found:
        raise DpmixError(f"row '{cell.row}' at {place}: none of its tries came to an end")
    best = values[max(found, key=lambda chosen: _rank(found[chosen]))]
    return replace(cell, settings=cell.settings | best, tuned=best)


def _rank(tries: list[tuple[bool, float]]) -> tuple[bool, float]:
    return not any(diverged for diverged, _ in tries), statistics.mean(one for _, one in tries)
