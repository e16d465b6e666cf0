"""Epsilon against steps: a function of the plan, and so public."""

from dataclasses import dataclass
from itertools import count, takewhile

from dpmix.privacy.private_selection import epsilon_stated
from dpmix.reporting.statement_model import Statement

_POINTS = 10

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class EpsilonCurve:
    """What a run has spent, and what it goes on to spend if it is not over.

    Attributes:
        spent: (steps, epsilon) from 0 to the model's steps.
        planned: the same from there to the last step of the plan; empty where the run is over.
    """

    spent: Points
    planned: Points

    @property
    def whole(self) -> Points:
        """Both."""
        return self.spent + self.planned[1:]


def epsilon_curve(statement: Statement) -> EpsilonCurve | None:
    """Some ten to twenty points, the choice of a private selection included; None without privacy.

    They lie where a run is evaluated by default, since what it accounted for itself is remembered,
    and before that, where epsilon rises steeply, at 1, 4, 16, ... steps.
    """
    if not statement.private:
        return None
    now, last = statement.steps, statement.planned_steps
    every = max(1, last // _POINTS)
    early = takewhile(lambda step: step < every, (4**power for power in count()))
    points = [
        (float(step), _epsilon(statement, step))
        for step in sorted({0, *early, *range(every, last, every), now, last})
    ]
    planned = [point for point in points if point[0] >= now]
    return EpsilonCurve([p for p in points if p[0] <= now], planned if now < last else [])


def _epsilon(said: Statement, steps: int) -> float:
    given = (said.sampling_rate, said.noise_multiplier, steps, said.delta)
    return epsilon_stated(*given, said.expected_runs, tuple(said.spent_before))
