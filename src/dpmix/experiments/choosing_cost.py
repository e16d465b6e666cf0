"""What it costs to choose among the runs of a sweep, which no single run's epsilon says."""

import math
from collections import Counter
from dataclasses import dataclass

from dp_accounting import (
    ComposedDpEvent,
    GaussianDpEvent,
    NeighboringRelation,
    PoissonSampledDpEvent,
    SelfComposedDpEvent,
)
from dp_accounting.rdp import RdpAccountant

from dpmix.experiments.results import Row
from dpmix.privacy.accounting import RDP_ORDERS
from dpmix.privacy.private_selection import epsilon_selected

Mechanism = tuple[float, float, int]
"""q, sigma, T."""


@dataclass(frozen=True)
class ChoosingCost:
    """Of the best of `runs` runs of one mechanism.

    Attributes:
        epsilon: that each was trained for.
        runs: how many there were.
        all_of_them: epsilon of all together, which whoever chose by looking at all has spent.
        by_selection: of a private selection of as many on average.
    """

    epsilon: float
    runs: int
    all_of_them: float
    by_selection: float


def choosing_costs(rows: list[Row], delta: float) -> list[ChoosingCost]:
    """The cost of choosing among the private runs of each epsilon, by Renyi DP."""
    costs = []
    for epsilon in sorted({row["epsilon"] for row in rows if row["private"]}):
        runs = [_mechanism(row) for row in rows if row["epsilon"] == epsilon]
        dearest = max(epsilon_selected(*one, delta, len(runs)) for one in set(runs))
        costs.append(ChoosingCost(epsilon, len(runs), epsilon_of_all(runs, delta), dearest))
    return costs


def epsilon_of_all(runs: list[Mechanism], delta: float) -> float:
    """Epsilon at `delta` of releasing every run, by Renyi DP."""
    if not all(sigma > 0 for _, sigma, _ in runs):
        return math.inf
    accountant = RdpAccountant(RDP_ORDERS, NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(
        ComposedDpEvent(
            [
                SelfComposedDpEvent(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps * count)
                for (q, sigma, steps), count in Counter(runs).items()
            ]
        )
    )
    return float(accountant.get_epsilon(delta))


def _mechanism(row: Row) -> Mechanism:
    return row["sampling_rate"], row["sigma"], row["steps"]
