"""Statistical tests of every step: of the noise, its size and independence, and of the draws.

Each statistical test accuses a sound mechanism with a probability of about `RISK`. An audit makes
some fifteen of them, so that a false alarm comes in fewer than 1 of 10,000 audits
(`tests/audit/test_invariants.py`). All other tests of an audit (`checks.py`) are exact comparisons,
or bounds with room for rounding, which accuse no sound mechanism.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.audit_report import Finding

RISK = 1e-6
# Noise that is kept: numbers of all steps, of one step, and steps compared at a time.
_KEPT, _KEPT_OF_A_STEP, _ROWS = 1 << 22, 1 << 12, 1 << 9
_EDGES = np.array([0.0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, np.inf])
# Two numbers this near are one, in standard deviations: many steps of the grid of `GaussianNoise`.
_NEAR = 2.0**-24
# Fewer numbers, draws or pairs of draws are too far from the laws that they are compared with.
_MANY, _MANY_DRAWS, _MANY_PAIRS = 30, 100, 25


def by_chance(name: str, found: str, tests: Mapping[str, float]) -> Finding:
    """An invariant that fails if one of the p-values in `tests`, by what it looks for, is small."""
    failed = [f"{what}: p {p:.1g}" for what, p in tests.items() if not p > RISK]
    together = f"p {worst_of(list(tests.values())):.2g}"
    return Finding(name=name, holds=not failed, found=f"{found} ({'; '.join(failed) or together})")


def exactly(name: str, found: str, failed: Collection[str]) -> Finding:
    """An invariant that fails if anything `failed`; each text says what."""
    return Finding(name=name, holds=not failed, found="; ".join(sorted(failed)) or found)


def two_sided(law: Any, value: Any) -> Any:
    """P-values of `value` under a distribution frozen by SciPy: numbers, or arrays of one shape."""
    # The upper tail of whole numbers holds `value` itself.
    discrete = isinstance(law.dist, stats.rv_discrete)
    return np.minimum(1.0, 2 * np.minimum(law.cdf(value), law.sf(value - discrete)))


def worst_of(p_values: Any) -> float:
    """The p-value of the smallest of several (Bonferroni)."""
    found = np.asarray(p_values, dtype=float).ravel()
    return min(1.0, float(found.min()) * len(found))


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


class NoiseChecks:
    """Tests the noise of every step, all its numbers; keeps those of a few places.

    `sizes` are those of the released tensors, in order; `rounding` is the numbers' relative error.
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

    def add(self, noise: Float64[np.ndarray, " P"], total: Float64[np.ndarray, " P"]) -> None:
        """Take one more step: the noise, on the scale of the sum, and the sum `total`."""
        x = noise / self._std
        self._kept.append(x[self._places])
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

    def size(self) -> Finding:
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

    def independence(self) -> Finding:
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
    """Numbers that are within `near` of the next in size, of either sign; and as many by chance."""
    gaps = np.diff(np.sort(np.abs(x)))
    pairs = len(x) * (len(x) - 1) / 2
    # The chance of one pair, for small `near`.
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


class DrawChecks:
    """Tests whether the examples of all steps are independent draws at rate q.

    `classes` are the labels of the data's examples; the rest of all `examples` are canaries.
    """

    def __init__(self, classes: Int64[np.ndarray, " D"], examples: int, rate: float) -> None:
        self._classes, self._examples, self._rate = classes, examples, rate
        self._counts = np.zeros(examples, dtype=np.int64)
        self._sizes: list[int] = []
        self._last = np.empty(0, dtype=np.int64)
        self._trials = self._again = 0
        self._failed = set[str]()
        self._echo = Echo(examples)

    def add(self, drawn: Int64[np.ndarray, " B"]) -> None:
        """Take the examples of one more step."""
        if len(np.unique(drawn)) < len(drawn):
            self._failed.add("an example was used twice in a step")
        self._sizes.append(len(drawn))
        self._counts += np.bincount(drawn, minlength=self._examples)
        self._trials += len(self._last)
        self._again += int(np.isin(drawn, self._last).sum())
        self._last = drawn
        centred = np.full(self._examples, -self._rate)
        centred[drawn] += 1
        self._echo.add(centred)

    def found(self) -> Finding:
        """Whether they are Poisson draws."""
        name, steps, sizes = "draws of examples", len(self._sizes), np.array(self._sizes)
        if self._rate == 1 and not (sizes == self._examples).all():
            self._failed.add("an example was left out")
        if self._rate == 1 or self._failed:
            return exactly(name, "everyone in every step (q = 1)", self._failed)
        # Not their number itself: where N is not public, that would tell it.
        found = f"those of {steps} steps, next to independent draws with probability q"
        rate, examples = self._rate, self._examples
        members = np.bincount(self._classes)
        of_class = np.bincount(self._classes, self._counts[: len(self._classes)])
        drawn, classes = stats.binom(steps * examples, rate), stats.binom(members * steps, rate)
        tests = {
            "the number of draws": worst_of(two_sided(drawn, int(sizes.sum()))),
            "the largest or smallest step": _extreme(sizes, examples, rate),
            "how the sizes of steps vary": _spread(sizes, examples, rate),
            "the example that was drawn most or least": _extreme(self._counts, steps, rate),
            "how often each example was drawn": _spread(self._counts, steps, rate),
            "the draws of one class": worst_of(two_sided(classes, of_class)),
            "examples that were drawn again in the next step": self._next_step(),
        }
        if steps * examples * min(rate, 1 - rate) ** 2 >= _MANY_PAIRS:
            tests["examples that are drawn together"] = self._echo.p_value()
        return by_chance(name, found, tests)

    def _next_step(self) -> float:
        """P-value of the draws of those drawn a step before: Freedman's inequality (1975)."""
        rate = self._rate
        excess = abs(self._again - rate * self._trials)
        room = rate * (1 - rate) * self._trials + excess * max(rate, 1 - rate) / 3
        return min(1.0, 10 * math.exp(-(excess**2) / (2 * room))) if room else 1.0


def _extreme(values: Int64[np.ndarray, " V"], trials: int, rate: float) -> float:
    """P-value of the largest and the smallest of some Binomial(trials, rate) numbers."""
    law = stats.binom(trials, rate)
    tails = min(law.sf(values.max() - 1), law.cdf(values.min()))
    return float(min(1.0, 2 * len(values) * tails))


def _spread(values: Int64[np.ndarray, " V"], trials: int, rate: float) -> float:
    """P-value of the sum of squares of Binomial(trials, rate) numbers, by a gamma distribution."""
    variance = trials * rate * (1 - rate)
    if len(values) < _MANY or len(values) * variance < _MANY_DRAWS or trials < 2:
        return 1.0
    spread = float(((values - trials * rate) ** 2).sum()) / variance
    scale = 1 + (1 - 6 * rate * (1 - rate)) / (2 * variance)
    return float(two_sided(stats.gamma(len(values) / (2 * scale), scale=2 * scale), spread))
