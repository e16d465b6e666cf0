"""What it costs to choose among the runs of a sweep, which no single run's epsilon says.

Runs of one seed share their noise, which then cancels out between them: no epsilon covers all of
them. What is told is the cost of as many runs with fresh noise, each with noise of its own.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dpmix.privacy.accounting import PriorReleases, epsilon_together
from dpmix.privacy.selection import epsilon_selected
from dpmix.reports.statement import Statement, read_statement
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder

Mechanism = tuple[float, float, int, PriorReleases]


"""q, sigma, T, and the sigmas of what was spent before."""


@dataclass(frozen=True)
class ChoosingCost:
    """Of the best of `runs` runs.

    Attributes:
        epsilon: that each was trained for; None for runs of every epsilon, infinite included.
        delta: of all that follows.
        runs: how many there are, those included that were stopped, with all their planned steps.
        all_of_them: epsilon of all together, which whoever chose by looking at all has spent.
        by_selection: of a private selection of as many on average; None where their plans differ,
            or what they had spent before.
        seeded: whether some have a seed, and so no fresh noise.
        copies: how often the most frequent training image occurs; the numbers are for one that
            occurs once.
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

    By PLD, and of a private selection by Renyi DP. Runs on other data count too, which is an upper
    bound, and so is to count a release that several runs had spent before with each of them. With
    runs without privacy, all together have none. Nothing, where all are without.

    Raises:
        DpmixError: a run whose files can't be read.
    """
    found = [RunFolder(path.parent) for path in sorted(folder.glob("*/privacy.json"))]
    told = [(Config.load(run.config).privacy.epsilon, read_statement(run.privacy)) for run in found]
    epsilons = sorted({epsilon for epsilon, said in told if said.private})
    if not epsilons:
        return []
    costs = [_cost(epsilon, [said for of, said in told if of == epsilon]) for epsilon in epsilons]
    if len({epsilon for epsilon, _ in told}) > 1:
        costs.append(_cost(None, [said for _, said in told]))
    return costs


def _cost(epsilon: float | None, told: list[Statement]) -> ChoosingCost:
    delta = max(said.delta for said in told)
    runs = [
        (said.sampling_rate, said.noise_multiplier, said.planned_steps, tuple(said.spent_before))
        for said in told
    ]
    alike = epsilon is not None and len(set(runs)) == 1
    q, sigma, steps, spent = runs[0]
    return ChoosingCost(
        epsilon,
        delta,
        len(runs),
        epsilon_of_all(runs, delta),
        epsilon_selected(q, sigma, steps, delta, len(runs), spent) if alike else None,
        any(said.seeded for said in told),
        max((said.repeats.most for said in told if said.repeats), default=1),
    )


def epsilon_of_all(runs: list[Mechanism], delta: float) -> float:
    """Epsilon at `delta` of releasing every run, by privacy loss distributions."""
    counts = Counter((q, sigma, steps) for q, sigma, steps, _ in runs)
    trainings = tuple((q, sigma, steps * count) for (q, sigma, steps), count in counts.items())
    return epsilon_together(trainings, delta, tuple(other for *_, spent in runs for other in spent))
