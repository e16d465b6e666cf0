"""Whether the noise of all steps is what the plan says: independent normal numbers of one size."""

import numpy as np
from jaxtyping import Float64
from scipy import stats

from dpmix.audit.canaries import Echo
from dpmix.audit.invariants import Invariant, by_chance, two_sided, worst_of
from dpmix.privacy.plan import PrivacyPlan

# Numbers that are kept of all steps, and of one.
_KEPT, _KEPT_OF_A_STEP, _ROWS = 1 << 22, 1 << 12, 1 << 9


_EDGES = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, np.inf])


# Two numbers this near are one, in standard deviations: many steps of the grid of `GaussianNoise`.
_NEAR = 2.0**-24


class NoiseChecks:
    """Hears the noise of every step, all its numbers; keeps those of a few places.

    Args:
        plan: what the noise is compared with.
        sizes: of the released tensors, in order; every number counts once.
        rounding: relative error of the numbers that are heard.
        rng: of the places that are kept.
    """

    def __init__(
        self, plan: PrivacyPlan, sizes: list[int], rounding: float, rng: np.random.Generator
    ) -> None:
        self._std, self._sizes = plan.noise_std, np.array([size for size in sizes if size])
        # The grid is coarse next to little noise.
        self._near = max(_NEAR, 2.0**-26 / plan.noise_multiplier, 16 * rounding)
        total = int(self._sizes.sum())
        kept = min(total, _KEPT_OF_A_STEP, max(2, _KEPT // plan.steps))
        self._places = rng.choice(total, kept, replace=False)
        self._kept: list[Float64[np.ndarray, " K"]] = []
        self._scales: list[float] = []
        self._followed: list[float] = []
        self._squares, self._repeats, self._expected = 0.0, 0, 0.0
        self._echo = Echo(total)

    def hear(self, noise: Float64[np.ndarray, " P"], total: Float64[np.ndarray, " P"]) -> None:
        """Take one more step.

        Args:
            noise: what was added, on the scale of the sum.
            total: the sum of clipped gradients that it was added to.
        """
        x = noise / self._std
        kept = x[self._places]
        squares = np.add.reduceat(x * x, np.cumsum(self._sizes) - self._sizes)
        self._squares += float(squares.sum())
        self._scales += two_sided(stats.chi2(self._sizes), squares).tolist()
        # From here on in units of their own size, which is tested by itself.
        x = _of_size_one(x)
        length = float(np.linalg.norm(total))
        if length > 0:
            self._followed.append(float(x @ (total / length)))
        repeats, expected = _repeats(x, self._near)
        self._repeats, self._expected = self._repeats + repeats, self._expected + expected
        self._echo.add(x)
        self._kept.append(kept)

    def size(self) -> Invariant:
        """Whether each tensor's noise has the planned size, in each step by itself."""
        steps = len(self._kept)
        numbers = int(self._sizes.sum()) * steps
        spread = (self._squares / numbers) ** 0.5
        # The noise is a little larger than sigma says, to make up for the grid.
        less = float(stats.chi2(numbers).cdf(self._squares))
        return by_chance(
            "noise in every step",
            f"{spread:.4f} of the plan's sigma over {steps} steps",
            {"one tensor in one step": worst_of(self._scales), "all together too small": less},
        )

    def independence(self) -> Invariant:
        """Whether the numbers are normal, and independent of one another and of the sum."""
        rows = _of_size_one(np.stack(self._kept))
        repeats, expected = _repeats(rows.ravel(), self._near)
        tests = {
            "the numbers are not normal": _law(rows.ravel()),
            "numbers repeat within a step": _too_many(self._repeats, self._expected),
            "numbers repeat among the steps": _too_many(repeats, expected),
            "numbers of one step are correlated": self._echo.p_value(),
            "two steps are correlated": _alike(rows),
        }
        if self._followed:
            z = np.array([*self._followed, sum(self._followed) / len(self._followed) ** 0.5])
            tests["the noise follows the gradients"] = worst_of(2 * stats.norm.sf(np.abs(z)))
        found = f"numbers of {len(rows)} steps, next to each other, to normal ones and to gradients"
        return by_chance("independent noise", found, tests)


def _of_size_one(x: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """Divided by the root of their mean square, unless all are 0."""
    size = float(np.sqrt(np.mean(x * x)))
    return x / size if size > 0 else x


def _law(x: Float64[np.ndarray, " N"]) -> float:
    """P-value of how many numbers lie in each range of sizes, and of their signs."""
    counts = np.diff(np.searchsorted(np.sort(np.abs(x)), _EDGES))
    chances = 2 * -np.diff(stats.norm.sf(_EDGES))
    positive = two_sided(stats.binom(len(x), 0.5), int((x > 0).sum()))
    return worst_of([*two_sided(stats.binom(len(x), chances), counts), positive])


def _repeats(x: Float64[np.ndarray, " N"], near: float) -> tuple[int, float]:
    """Neighbours in size, of either sign, no further apart than `near`; and as many by chance.

    Two independent sizes are that near with probability 2 near / sqrt(pi), for small `near`.
    """
    gaps = np.diff(np.sort(np.abs(x)))
    pairs = len(x) * (len(x) - 1) / 2
    return int((gaps <= near).sum()), pairs * min(1.0, 2 * near / np.pi**0.5)


def _too_many(repeats: int, expected: float) -> float:
    """P-value of that many repeats, with room for the noise's own grid."""
    return float(stats.poisson(2 * expected).sf(repeats - 1))


def _alike(rows: Float64[np.ndarray, "T K"]) -> float:
    """P-value of the largest correlation of any two steps: exact for one pair."""
    steps, places = rows.shape
    if steps < 2 or places < 2:
        return 1.0
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    units, highest = rows / np.where(lengths > 0, lengths, 1.0), 0.0
    for start in range(0, steps, _ROWS):
        # Of each pair once, and of no step with itself.
        found = np.tril(np.abs(units[start : start + _ROWS] @ units.T), start - 1)
        highest = max(highest, float(found.max()))
    pairs = steps * (steps - 1) / 2
    law = stats.beta(0.5, (places - 1) / 2)
    return float(min(1.0, pairs * law.sf(min(1.0, highest**2))))
