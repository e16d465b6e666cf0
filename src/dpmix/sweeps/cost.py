"""What it costs to choose among the runs of a sweep, which no single run's epsilon covers.

Runs of one seed share their noise, which then cancels between them: no epsilon covers all of them.
What is computed here is the cost of the same number of runs with fresh noise each.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dpmix.privacy.accounting import epsilon_together
from dpmix.privacy.selection import epsilon_selected
from dpmix.reports.files import ModelFile
from dpmix.reports.statement import Statement, read_statement
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder


@dataclass(frozen=True)
class ChoosingCost:
    """The cost of choosing the best of several runs, for an image that occurs once.

    Attributes:
        epsilon: target of each run; None for runs of every epsilon, infinite included.
        all_of_them: epsilon of all runs together, spent by choosing after looking at all.
        by_selection: epsilon of a private selection of as many runs on average; None where the
            runs differ in their plans or earlier releases.
        copies: how often the most frequent training image occurs.
    """

    epsilon: float | None
    delta: float
    runs: int
    all_of_them: float
    by_selection: float | None
    seeded: bool
    copies: int


def choosing_costs(folder: Path) -> list[ChoosingCost]:
    """The cost of choosing among all runs that were ever made in a sweep's folder `runs/`.

    By PLD, and by Renyi DP for a private selection. Runs on other data count too, and an earlier
    release that several runs count is counted with each: both are upper bounds. With runs without
    privacy among them, all together have infinite epsilon; if all are, there is no cost to state.
    """
    roots = {path.parent for name in ("privacy.json", "model.safetensors")
             for path in folder.glob(f"*/{name}")}  # fmt: skip
    stated = [_stated(RunFolder(root)) for root in sorted(roots)]
    epsilons = sorted({epsilon for epsilon, statement in stated if statement.private})
    costs = [_cost(epsilon, [one for of, one in stated if of == epsilon]) for epsilon in epsilons]
    if epsilons and len({epsilon for epsilon, _ in stated}) > 1:
        costs.append(_cost(None, [statement for _, statement in stated]))
    return costs


def _stated(run: RunFolder) -> tuple[float, Statement]:
    """Target epsilon and statement; a killed run may have its model and no other file."""
    if run.privacy.exists():
        return Config.load(run.config).privacy.epsilon, read_statement(run.privacy)
    model = ModelFile(run.model)
    return Config.from_tree(model.settings).privacy.epsilon, model.statement


def _cost(epsilon: float | None, stated: list[Statement]) -> ChoosingCost:
    delta = max(one.delta for one in stated)
    plans = Counter((s.sampling_rate, s.noise_multiplier, s.planned_steps) for s in stated)
    earlier = [tuple(one.spent_before) for one in stated]
    by_selection = None
    if epsilon is not None and len(plans) == 1 and len(set(earlier)) == 1:
        by_selection = epsilon_selected(*next(iter(plans)), delta, len(stated), earlier[0])
    # Releasing k runs of one plan composes to k times its steps.
    trainings = tuple((q, sigma, steps * count) for (q, sigma, steps), count in plans.items())
    return ChoosingCost(
        epsilon,
        delta,
        len(stated),
        epsilon_together(trainings, delta, tuple(sigma for one in earlier for sigma in one)),
        by_selection,
        any(one.seeded for one in stated),
        max((one.repeats.most for one in stated if one.repeats), default=1),
    )
