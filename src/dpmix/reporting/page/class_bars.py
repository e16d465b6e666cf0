"""Accuracy class by class, with how far chance alone may have moved it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy import stats

from dpmix.reporting.metrics_model import Metrics

MOST_SHOWN = 12
CONFIDENCE = 0.95


@dataclass(frozen=True)
class ClassBar:
    """A class: its accuracy, between what bounds it lies, and of how many images."""

    name: str
    accuracy: float
    low: float
    high: float
    images: int


@dataclass(frozen=True)
class ClassBars:
    """All classes, the lowest accuracy first.

    Attributes:
        bars: of them.
        overall: the same of all images together.
    """

    bars: tuple[ClassBar, ...]
    overall: ClassBar

    @property
    def shown(self) -> int:
        """How many are not folded away: all of a few, the lowest of many."""
        return len(self.bars) if len(self.bars) <= MOST_SHOWN else MOST_SHOWN


def class_bars(metrics: Metrics) -> ClassBars:
    """The bars of a run."""
    names = list(metrics.class_accuracy)
    total = [sum(metrics.confusion[name].values()) for name in names]
    right = [metrics.confusion[name].get(name, 0) for name in names]
    shares = [*metrics.class_accuracy.values(), metrics.accuracy]
    low, high = _interval(np.array([*right, sum(right)]), np.array([*total, sum(total)]))
    *bars, overall = (
        ClassBar(name, share, float(lowest), float(highest), images)
        for name, share, lowest, highest, images in zip(
            [*names, "all"], shares, low, high, [*total, sum(total)], strict=True
        )
    )
    return ClassBars(tuple(sorted(bars, key=lambda bar: bar.accuracy)), overall)


def _interval(
    right: np.ndarray, total: np.ndarray
) -> tuple[Float64[np.ndarray, " L"], Float64[np.ndarray, " L"]]:
    """Clopper and Pearson's (1934) interval of a share."""
    tail = (1 - CONFIDENCE) / 2
    low = stats.beta.ppf(tail, right, total - right + 1)
    high = stats.beta.ppf(1 - tail, right + 1, total - right)
    return np.where(right == 0, 0.0, low), np.where(right == total, 1.0, high)
