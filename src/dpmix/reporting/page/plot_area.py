"""Where values lie in a chart: scales, and ticks at round numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 400.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 14.0, 30.0, 40.0
_STEPS = (1, 2, 5, 10)


@dataclass(frozen=True)
class PlotArea:
    """A chart of values from 0 to `right` and from 0 to `top`, in units of the picture.

    Attributes:
        right: the largest value along x, above 0.
        top: the largest value along y, above 0.
        width: of the picture.
        height: of the picture.
    """

    right: float
    top: float
    width: float = WIDTH
    height: float = HEIGHT

    def x(self, value: float) -> float:
        """Where `value` lies along x, to a tenth."""
        return round(LEFT + value / self.right * (self.width - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Where `value` lies along y, to a tenth; up is less."""
        return round(self.height - BOTTOM - value / self.top * (self.height - TOP - BOTTOM), 1)

    def line(self, points: Sequence[tuple[float, float]]) -> str:
        """The points of a polyline."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)

    @property
    def x_ticks(self) -> list[float]:
        """Round values along x."""
        return ticks(self.right)

    @property
    def y_ticks(self) -> list[float]:
        """Round values along y."""
        return ticks(self.top)


def ticks(top: float, most: int = 5) -> list[float]:
    """Round values from 0 to at most `top`, at most `most` above 0; any may carry a rounding error.

    Args:
        top: above 0.
        most: how many.
    """
    scale = 10.0 ** math.floor(math.log10(top / most))
    step = next(scale * one for one in _STEPS if scale * one * most >= top * (1 - 1e-9))
    return [step * index for index in range(int(top / step * (1 + 1e-9)) + 1)]
