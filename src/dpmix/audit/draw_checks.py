"""Whether the examples of all steps are independent draws at rate q, as Poisson sampling has it."""

import math

import numpy as np
from jaxtyping import Int64
from scipy import stats

from dpmix.audit.echo import Echo
from dpmix.audit.invariants import Invariant, by_chance, exactly, two_sided, worst_of

# Fewer numbers, draws or pairs of draws are too far from the laws that they are compared with.
_MANY, _MANY_DRAWS, _MANY_PAIRS = 30, 100, 25


class DrawChecks:
    """Hears which examples each step used.

    Args:
        classes: of the data's examples, the first ones.
        examples: N, canaries that are in included.
        rate: q.
    """

    def __init__(self, classes: Int64[np.ndarray, " D"], examples: int, rate: float) -> None:
        self._classes, self._examples, self._rate = classes, examples, rate
        self._counts = np.zeros(examples, dtype=np.int64)
        self._sizes: list[int] = []
        self._last: Int64[np.ndarray, " B"] | None = None
        self._trials = self._again = 0
        self._twice = False
        self._echo = Echo(examples)

    def hear(self, drawn: Int64[np.ndarray, " B"]) -> None:
        """Take one more step."""
        self._twice |= len(np.unique(drawn)) < len(drawn)
        self._sizes.append(len(drawn))
        self._counts += np.bincount(drawn, minlength=self._examples)
        if self._last is not None:
            self._trials += len(self._last)
            self._again += int(np.isin(drawn, self._last).sum())
        self._last = drawn
        centred = np.full(self._examples, -self._rate)
        centred[drawn] += 1
        self._echo.add(centred)

    def found(self) -> Invariant:
        """Whether they are Poisson draws."""
        name, steps, sizes = "draws of examples", len(self._sizes), np.array(self._sizes)
        failed = {"an example was used twice in a step": self._twice}
        if self._rate == 1:
            failed["an example was left out"] = not (sizes == self._examples).all()
            return exactly(name, "everyone in every step (q = 1)", failed)
        if self._twice:
            return exactly(name, "", failed)
        # Not their number itself: where N is not public, that would tell it.
        found = f"those of {steps} steps, next to independent draws with probability q"
        return by_chance(name, found, self._tests(sizes, steps))

    def _tests(self, sizes: Int64[np.ndarray, " T"], steps: int) -> dict[str, float]:
        rate, examples = self._rate, self._examples
        members = np.bincount(self._classes)
        of_class = np.bincount(self._classes, self._counts[: len(self._classes)])
        tests = {
            "the number of draws": worst_of(
                two_sided(stats.binom(steps * examples, rate), int(sizes.sum()))
            ),
            "the largest or smallest step": _extreme(sizes, examples, rate),
            "how the sizes of steps vary": _spread(sizes, examples, rate),
            "the example that was drawn most or least": _extreme(self._counts, steps, rate),
            "how often each example was drawn": _spread(self._counts, steps, rate),
            "the draws of one class": worst_of(
                two_sided(stats.binom(members * steps, rate), of_class)
            ),
            "examples that were drawn again in the next step": self._next_step(),
        }
        if steps * examples * min(rate, 1 - rate) ** 2 >= _MANY_PAIRS:
            tests["examples that are drawn together"] = self._echo.p_value()
        return tests

    def _next_step(self) -> float:
        """P-value of the draws of those drawn a step before: Freedman's inequality (1975).

        Each is an independent draw at rate q, whatever was drawn before: a martingale.
        """
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
    """P-value of the sum of squares of independent Binomial(trials, rate) numbers.

    A gamma distribution of its mean and variance: near enough where many draws were expected.
    """
    variance = trials * rate * (1 - rate)
    if len(values) < _MANY or len(values) * variance < _MANY_DRAWS or trials < 2:
        return 1.0
    spread = float(((values - trials * rate) ** 2).sum()) / variance
    scale = 1 + (1 - 6 * rate * (1 - rate)) / (2 * variance)
    return float(two_sided(stats.gamma(len(values) / (2 * scale), scale=2 * scale), spread))
