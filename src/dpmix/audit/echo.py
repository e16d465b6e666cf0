"""Whether numbers repeat at a distance: the correlation of rows with themselves, shifted."""

import numpy as np
from jaxtyping import Float64
from scipy import stats


class Echo:
    """Adds up the circular autocorrelation of rows of independent numbers of mean 0.

    Noise that two halves of a vector share, with either sign, or that neighbours share in part,
    shows at one shift; a constant that was added to all numbers shows at every shift.
    """

    def __init__(self, length: int) -> None:
        self._length, self._rows = length, 0
        self._power = np.zeros(length // 2 + 1)

    def add(self, row: Float64[np.ndarray, " L"]) -> None:
        """Take one more row, of the length that all have."""
        self._power += np.abs(np.fft.rfft(row)) ** 2
        self._rows += 1

    def p_value(self) -> float:
        """Of the largest correlation at any shift: an upper bound, if the rows have no structure.

        At the shift of half the length each product counts twice, so that the variance doubles.
        All shifts are given that variance, which also covers the longer tails of sums of products.
        """
        sums = np.fft.irfft(self._power, n=self._length)
        shifts = sums[1 : self._length // 2 + 1]
        if not len(shifts) or not sums[0] > 0:
            return 1.0
        highest = float(np.abs(shifts).max() / sums[0]) * np.sqrt(self._length * self._rows / 2)
        return float(min(1.0, 2 * len(shifts) * stats.norm.sf(highest)))
