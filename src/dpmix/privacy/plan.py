"""`PrivacyPlan`: one frozen object that sampler, clipping, noise and accountant are built from.

The sampling rate q and the denominator are fixed before any data is read, so adding one example to
the data changes neither them nor sigma (`tests/privacy/test_plan.py`).
"""

import math
import warnings
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Context, Decimal
from functools import cached_property

from dpmix.errors import DpmixError, nearest
from dpmix.privacy.accounting import MIN_DELTA, PriorReleases, calibrate_sigma, epsilon_rdp
from dpmix.privacy.selection import calibrate_selected, check_expected_runs, epsilon_stated
from dpmix.privacy.tradeoff import TradeOff, tradeoff_stated
from dpmix.privacy.unit import NEIGHBOURS, Neighbours, Unit

LARGEST_DELTA = 1e-5


def default_delta(n: int | None) -> float:
    """Return min(1e-5, 1 / (10 n)) rounded down to two digits; 1e-5 where N is private (None)."""
    if n is None or n < 1:  # which `calibrate` refuses
        return LARGEST_DELTA
    two_digits = Context(prec=2, rounding=ROUND_DOWN)
    return min(LARGEST_DELTA, float(two_digits.divide(Decimal(1), Decimal(10 * n))))


@dataclass(frozen=True)
class PrivacyPlan:
    """A DP-SGD run: T Poisson-subsampled Gaussian releases.

    Make a plan with `calibrate`.

    Attributes:
        sampling_rate: q, the probability with which each example enters a step, independently.
        denominator: the constant, in examples, that the noisy sum is divided by.
        steps: T, the number of releases.
        noise_multiplier: sigma, the noise's standard deviation over the sensitivity; 0: no privacy.
        max_grad_norm: C, the L2 norm that gradients are clipped to; infinite if not private.
        delta: the delta at which epsilon is stated.
        sensitivity_multiplier: sensitivity of the sum of clipped gradients in units of C.
        target_epsilon: the epsilon that sigma was calibrated for.
        n: N if it counts as public, else None.
        prior_releases: sigmas of earlier Gaussian releases of the same data; in every epsilon.
        expected_runs: mean number of runs of the private selection that this is a run of. Every
            epsilon then covers the best of them, by RDP, because PLD has no theorem for it.
        unit: the unit of privacy, which n, sampling_rate and denominator count: an image, or a
            person with all their images.
    """

    sampling_rate: float
    denominator: float
    steps: int
    noise_multiplier: float
    max_grad_norm: float
    delta: float
    sensitivity_multiplier: int
    target_epsilon: float
    n: int | None = None
    prior_releases: PriorReleases = ()
    expected_runs: float | None = None
    unit: Unit = "image"

    def __post_init__(self) -> None:
        # An iterator would be used up before epsilon is computed.
        object.__setattr__(self, "prior_releases", tuple(map(float, self.prior_releases)))
        _require(0 < self.sampling_rate <= 1, "sampling_rate", self.sampling_rate, "in (0, 1]")
        _require_positive("denominator", self.denominator)
        _require(self.steps >= 0, "steps", self.steps, "0 or more")
        _require(self.steps % 1 == 0, "steps", self.steps, "a whole number")
        sigma, multiplier = self.noise_multiplier, self.sensitivity_multiplier
        _require(0 <= sigma < math.inf, "noise_multiplier", sigma, "0 or more")
        _require(self.max_grad_norm > 0, "max_grad_norm", self.max_grad_norm, "above 0")
        _require(0 < self.delta < 1, "delta", self.delta, "in (0, 1)")
        _require(multiplier >= 1, "sensitivity_multiplier", multiplier, "1 or more")
        for earlier in self.prior_releases:
            _require_positive("a noise multiplier in prior_releases", earlier)
        if self.expected_runs is not None:
            check_expected_runs(self.expected_runs)
        if self.private and math.isinf(self.max_grad_norm):
            raise DpmixError("max_grad_norm is infinite but noise is added; give a finite norm")
        if self.private:
            # Squares of norms near it must be normal numbers.
            norm = self.max_grad_norm
            _require(1e-15 <= norm <= 1e15, "max_grad_norm", norm, "1e-15 to 1e15")

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
        prior_releases: PriorReleases = (),
        expected_runs: float | None = None,
        unit: Unit = "image",
    ) -> "PrivacyPlan":
        """Find the least noise that makes run and prior releases together (epsilon, delta)-DP.

        Give `n` and `expected_batch_size`, and N counts as public: q is exactly
        `expected_batch_size / n` and the denominator is `expected_batch_size`. Or give
        `sampling_rate` and `denominator`, neither derived from the data, and N stays private.

        Args:
            epsilon: target; `inf` makes a plan without clipping, noise or guarantee.
            delta: target, well below 1 / n; None takes `default_delta`.
            n: N, the number of training images, or persons.
            expected_batch_size: q * N, in images or persons.
            sampling_rate: q, a probability.
            denominator: the constant that the noisy sum is divided by, in examples.
            steps: T; give `steps` or `epochs`. No step at all has epsilon 0.
            epochs: expected passes over the data: T = round(epochs / q).
            max_grad_norm: C, the L2 norm that gradients are clipped to.
            sensitivity_multiplier: `ViewSpec.sensitivity_multiplier` of the views.
            prior_releases: sigmas of earlier Gaussian releases of the same data. Their results may
                choose the method, its public inputs and, since it divides what is released, the
                denominator, but none of the other numbers above.
            expected_runs: mean number of runs of a private selection, whose best run is covered.
            unit: what n, batch and rate count: `image` or `person`.

        Raises:
            DpmixError: a value is out of range, or the arguments do not fix the sampling or T
                exactly once.
        """
        _require_unit(unit)
        rate, divisor = _sampling(n, expected_batch_size, sampling_rate, denominator, unit)
        total = _steps(steps, epochs, rate)
        refuse_unfit_epsilon(epsilon)
        if delta is None:
            delta = default_delta(n)
        unclipped = cls(
            rate, divisor, total, 0.0, math.inf, delta, sensitivity_multiplier, epsilon, n,
            prior_releases, expected_runs, unit,
        )  # fmt: skip
        if math.isinf(epsilon):
            return unclipped
        if n is not None and 1 / n <= delta:
            warnings.warn(
                f"delta {delta:g} is not below 1/N = {1 / n:.1e}: releasing one whole record in N "
                "would satisfy such a delta. Give a delta well under 1/N.",
                stacklevel=2,
            )
        if delta < MIN_DELTA:
            raise DpmixError(
                f"delta {delta:g} is below what the accountant resolves; give {MIN_DELTA:g} or more"
            )
        # Every field is checked before the search, which takes seconds.
        clipped = replace(unclipped, max_grad_norm=max_grad_norm)
        if total == 0:  # nothing more is released, so any noise is enough
            made = replace(clipped, noise_multiplier=1.0)
            if made.epsilon > epsilon:
                raise DpmixError(
                    f"epsilon {epsilon:g} is less than the {made.epsilon:.3g} that the earlier "
                    "releases spent; give a larger one"
                )
            return made
        target = (rate, total, epsilon, delta)
        if expected_runs is None:
            sigma = calibrate_sigma(*target, clipped.prior_releases)
        else:
            sigma = calibrate_selected(*target, expected_runs, clipped.prior_releases)
        return replace(clipped, noise_multiplier=sigma)

    @property
    def neighbouring_relation(self) -> Neighbours:
        """What the two training sets that the guarantee compares differ by."""
        return NEIGHBOURS[self.unit]

    @property
    def private(self) -> bool:
        """Whether the plan carries any guarantee."""
        return self.noise_multiplier > 0

    @property
    def expected_batch_size(self) -> float | None:
        """The mean number of examples in a step, q * N; None where N is private."""
        return None if self.n is None else self.sampling_rate * self.n

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise on every coordinate of the sum of clipped gradients."""
        if not self.private:
            return 0.0
        return self.noise_multiplier * self.max_grad_norm * self.sensitivity_multiplier

    @cached_property
    def epsilon(self) -> float:
        """Epsilon of the whole run at `delta`; it holds wherever the run stops, for any reason."""
        return self.epsilon_after(self.steps)

    @cached_property
    def epsilon_rdp(self) -> float:
        """Epsilon of the whole run by Renyi DP."""
        return self.epsilon_rdp_after(self.steps)

    @cached_property
    def tradeoff(self) -> TradeOff:
        """What a test of membership can find at most, of the whole run; it needs noise."""
        return tradeoff_stated(
            *self._mechanism(self.steps), self.expected_runs, self.prior_releases
        )

    def epsilon_after(self, steps: int) -> float:
        """Epsilon at `delta` of the first `steps` steps: by PLD, or by RDP in a private selection.

        It holds only if `steps` was fixed beforehand. Stopping a run after a look at its releases
        chooses the number by them: then state `epsilon` (docs/privacy.md, section 3).
        """
        return epsilon_stated(*self._mechanism(steps), self.expected_runs, self.prior_releases)

    def epsilon_rdp_after(self, steps: int) -> float:
        """Epsilon of the first `steps` steps by Renyi DP."""
        if self.expected_runs is None:
            return epsilon_rdp(*self._mechanism(steps), self.prior_releases)
        return self.epsilon_after(steps)

    def _mechanism(self, steps: int) -> tuple[float, float, int, float]:
        return self.sampling_rate, self.noise_multiplier, steps, self.delta


def refuse_unfit_epsilon(epsilon: float) -> None:
    """Refuse a target that no noise reaches: 0 or less, or not a number."""
    _require(epsilon > 0, "epsilon", epsilon, "above 0 ('inf' trains without privacy)")


def _require(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise DpmixError(f"{name} is {value:g}; expected {expected}")


def _require_unit(unit: str) -> None:
    if unit not in NEIGHBOURS:
        raise DpmixError(f"unit is '{unit}': {nearest(unit, NEIGHBOURS)}")


def _require_positive(name: str, value: float) -> None:
    _require(0 < value < math.inf, name, value, "above 0 and finite")


def _sampling(
    n: int | None, batch: float | None, rate: float | None, divisor: float | None, unit: Unit
) -> tuple[float, float]:
    """The sampling rate and the denominator."""
    if rate is not None and divisor is not None and batch is None:
        return rate, divisor
    if n is None or batch is None or rate is not None or divisor is not None:
        raise DpmixError(
            "the sampling is not fixed exactly once; give n and expected_batch_size, or "
            "sampling_rate and denominator"
        )
    _require(n >= 1, "n", n, "1 or more")
    _require_positive("expected_batch_size", batch)
    if batch > n:
        raise DpmixError(
            f"expected_batch_size is {batch:g} but there are only {n} training {unit}s; give at "
            f"most {n}"
        )
    return batch / n, batch


def _steps(steps: int | None, epochs: float | None, rate: float) -> int:
    if steps is not None and epochs is None:
        return steps
    if steps is not None or epochs is None:
        raise DpmixError(f"steps is {steps} and epochs is {epochs}; give exactly one of them")
    _require_positive("epochs", epochs)
    _require(0 < rate <= 1, "sampling_rate", rate, "in (0, 1]")
    return max(1, round(epochs / rate))
