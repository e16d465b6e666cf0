"""`PrivacyPlan`: the one frozen statement that sampler, clipping, noise and accountant obey.

q and the denominator are constants of the plan, fixed before any data is read and never recomputed
from a loader or a drawn batch. Adding one example to the data changes neither them nor sigma
(`tests/privacy/test_plan.py`).
"""

import math
import warnings
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Context, Decimal
from functools import cached_property
from typing import ClassVar

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import Spent, calibrate_sigma, epsilon_rdp
from dpmix.privacy.selection import calibrate_selected, check_expected_runs, epsilon_stated

LARGEST_DELTA = 1e-5


def default_delta(n: int | None) -> float:
    """Delta where none is given: min(1e-5, 1 / (10 n)) rounded down to two digits.

    Where N is not public (None), 1e-5.
    """
    if n is None or n < 1:  # which `calibrate` refuses
        return LARGEST_DELTA
    two_digits = Context(prec=2, rounding=ROUND_DOWN)
    return min(LARGEST_DELTA, float(two_digits.divide(Decimal(1), Decimal(10 * n))))


@dataclass(frozen=True)
class PrivacyPlan:
    """A DP-SGD run: T Poisson-subsampled Gaussian releases.

    Make one with `calibrate` (a guarantee) or `not_private` (none).

    Attributes:
        sampling_rate: q, each example's independent probability of entering a step.
        denominator: what the noisy sum is divided by; q * N where N is public.
        steps: T.
        noise_multiplier: sigma, the noise's standard deviation over the sensitivity.
        max_grad_norm: C; infinite in a run that is not private.
        delta: the delta at which epsilon is stated.
        sensitivity_multiplier: sensitivity of the sum of clipped gradients in units of C.
        target_epsilon: what sigma was calibrated for.
        n: N where it counts as public, else None.
        spent: noise multipliers of Gaussian releases made of the same data before (a gap check);
            every epsilon of the plan includes them.
        expected_runs: where the run is one of a private selection: how many runs that has on
            average. Every epsilon is then that of the best of them, by RDP: PLD can't say.
    """

    neighbouring_relation: ClassVar[str] = "add or remove one training example"

    sampling_rate: float
    denominator: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float
    delta: float
    sensitivity_multiplier: int
    target_epsilon: float
    n: int | None = None
    spent: Spent = ()
    expected_runs: float | None = None

    def __post_init__(self) -> None:
        # An iterator would be empty by the time that epsilon is asked for.
        object.__setattr__(self, "spent", tuple(float(sigma) for sigma in self.spent))
        _require(0 < self.sampling_rate <= 1, "sampling_rate", self.sampling_rate, "in (0, 1]")
        _require(_positive(self.denominator), "denominator", self.denominator, "above 0")
        _require(self.steps >= 1, "steps", self.steps, "1 or more")
        _require(self.steps % 1 == 0, "steps", self.steps, "a whole number")
        _require(0 <= self.noise_multiplier < math.inf, "noise_multiplier", self.noise_multiplier,
                 "0 or more")  # fmt: skip
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        _require(0 < self.delta < 1, "delta", self.delta, "in (0, 1)")
        _require(self.sensitivity_multiplier >= 1, "sensitivity_multiplier",
                 self.sensitivity_multiplier, "1 or more")  # fmt: skip
        for sigma in self.spent:
            _require(_positive(sigma), "a noise multiplier in spent", sigma, "above 0 and finite")
        if self.expected_runs is not None:
            check_expected_runs(self.expected_runs)
        if self.noise_multiplier > 0 and math.isinf(self.max_grad_norm):
            raise DpmixError("max_grad_norm is infinite but noise is added; give a finite norm")
        if self.private:
            _require(_positive(self.noise_std), "the noise's standard deviation", self.noise_std,
                     "above 0 and finite")  # fmt: skip

    @classmethod
    def calibrate(
        cls,
        *,
        epsilon: float,
        delta: float | None = None,
        n: int | None = None,
        expected_batch_size: float | None = None,
        sampling_rate: float | None = None,
        denominator: float | None = None,
        steps: int | None = None,
        epochs: float | None = None,
        max_grad_norm: float = 1.0,
        sensitivity_multiplier: int = 1,
        spent: Spent = (),
        expected_runs: float | None = None,
    ) -> "PrivacyPlan":
        """Find the least noise for which the run and what was `spent` are (epsilon, delta)-DP.

        Give `n` and `expected_batch_size`, and N counts as public: q is exactly
        `expected_batch_size / n` and the denominator is `expected_batch_size`. Or give
        `sampling_rate` and `denominator`, neither derived from the data, and N stays private.

        Args:
            epsilon: target; `inf` gives `not_private`.
            delta: target; None: `default_delta`. A warning says why it should be below 1 / n.
            n: N, the number of training examples.
            expected_batch_size: q * N.
            sampling_rate: q.
            denominator: what the noisy sum is divided by, in examples.
            steps: T. Or:
            epochs: T = round(epochs / q).
            max_grad_norm: C.
            sensitivity_multiplier: from `ViewSpec.sensitivity_multiplier`.
            spent: noise multipliers of earlier Gaussian releases of the same data. What they showed
                may choose the method and its public inputs, but none of the numbers above: those
                must have been fixed before.
            expected_runs: for a run of a private selection; the guarantee is then about the best
                of all its runs.

        Raises:
            DpmixError: a value out of range, or not exactly one of each pair of ways.
        """
        rate, divisor = _sampling(n, expected_batch_size, sampling_rate, denominator)
        total = _steps(steps, epochs, rate)
        refuse_unfit_epsilon(epsilon)
        if delta is None:
            delta = default_delta(n)
        if n is not None and 1 / n <= delta < 1 and epsilon < math.inf:
            warnings.warn(
                f"delta {delta:g} is not below 1/N = {1 / n:.1e}: releasing one whole record in N "
                "would satisfy such a delta. Give a delta well under 1/N.",
                stacklevel=2,
            )
        unclipped = cls(
            rate, divisor, total, 0.0, math.inf, delta, sensitivity_multiplier, epsilon, n, spent,
            expected_runs,
        )  # fmt: skip
        if math.isinf(epsilon):
            return unclipped
        # Every field is checked before the search, which takes seconds.
        clipped = replace(unclipped, max_grad_norm=max_grad_norm)
        given = (rate, total, epsilon, delta)
        if expected_runs is None:
            sigma = calibrate_sigma(*given, unclipped.spent)
        else:
            sigma = calibrate_selected(*given, expected_runs, unclipped.spent)
        return replace(clipped, noise_multiplier=sigma)

    @property
    def private(self) -> bool:
        """Whether the plan carries any guarantee."""
        return self.noise_multiplier > 0

    @property
    def expected_batch_size(self) -> float:
        """Q * N where N is public: the denominator itself, so that the two can't disagree."""
        return self.denominator

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the sum of clipped gradients."""
        if not self.private:
            return 0.0
        return self.noise_multiplier * self.max_grad_norm * self.sensitivity_multiplier

    @property
    def accountant(self) -> str:
        """Whose epsilon is stated."""
        return "PLD" if self.expected_runs is None else "RDP"

    @cached_property
    def epsilon(self) -> float:
        """Epsilon of the whole run at `delta`, by `accountant` under add/remove-one.

        It holds wherever the run is stopped, and for whatever reason.
        """
        return self.epsilon_after(self.steps)

    @cached_property
    def epsilon_rdp(self) -> float:
        """The same by Renyi DP accounting."""
        return self.epsilon_rdp_after(self.steps)

    def epsilon_after(self, steps: int) -> float:
        """Epsilon at `delta` of the first `steps` of the plan's steps.

        It holds only for a number that was fixed beforehand. Who stops a run after a look at what
        it released has chosen the number by that: state `epsilon` (docs/privacy.md, section 3).
        """
        return epsilon_stated(*self._given(steps), self.expected_runs, self.spent)

    def epsilon_rdp_after(self, steps: int) -> float:
        """The same by Renyi DP accounting."""
        if self.expected_runs is None:
            return epsilon_rdp(*self._given(steps), self.spent)
        return self.epsilon_after(steps)

    def _given(self, steps: int) -> tuple[float, float, int, float]:
        return self.sampling_rate, self.noise_multiplier, steps, self.delta


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def refuse_unfit_epsilon(epsilon: float) -> None:
    """Refuse a target that no noise reaches.

    Raises:
        DpmixError: it is 0 or less, or no number.
    """
    _require(epsilon > 0, "epsilon", epsilon, "above 0 ('inf' trains without privacy)")


def _require(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise DpmixError(f"{name} is {value:g}; expected {expected}")


def _sampling(
    n: int | None, batch: float | None, rate: float | None, divisor: float | None
) -> tuple[float, float]:
    """Q and the denominator from whichever pair was given."""
    if rate is not None or divisor is not None:
        if rate is None or divisor is None or batch is not None:
            raise DpmixError(
                "sampling_rate and denominator are given together, and instead of "
                "expected_batch_size"
            )
        return rate, divisor
    if n is None or batch is None:
        raise DpmixError(
            "give n and expected_batch_size, or sampling_rate and denominator, to fix the sampling"
        )
    _require(n >= 1, "n", n, "1 or more")
    _require(_positive(batch), "expected_batch_size", batch, "above 0")
    if batch > n:
        raise DpmixError(
            f"expected_batch_size is {batch:g} but there are only {n} training examples; "
            f"give at most {n}"
        )
    return batch / n, batch


def _steps(steps: int | None, epochs: float | None, rate: float) -> int:
    if (steps is None) == (epochs is None):
        raise DpmixError(f"steps is {steps} and epochs is {epochs}; give exactly one of them")
    if steps is not None:
        return steps
    assert epochs is not None
    _require(_positive(epochs), "epochs", epochs, "above 0")
    _require(0 < rate <= 1, "sampling_rate", rate, "in (0, 1]")
    return max(1, round(epochs / rate))
