"""Gaussian noise on the sum of clipped gradients: the release.

Formal guarantee: the release is a function of round(sum / g) + R alone, where the integers R are
drawn without regard to the sum. R = m round(N(0, a^2) / m) + round(N(0, b^2)), where a^2 + b^2 is
the variance in units of g, and m = b / 8. By Poisson's summation formula, R has the law, up to a
relative exp(-2 (8 pi)^2), of the output of a Gaussian mechanism to which a uniform number of width
m is added before rounding. Both are post-processing. Rounding moves the distance between two
neighbours' sums by at most g sqrt(P) for P coordinates, and the noise is enlarged for that.

Two parts are needed because float64 has too few normal numbers to hit every multiple of a fine grid
evenly: an attacker who knows the missed ones could exclude a sum for certain. The parts of one
number are the coordinates of one random point in the plane (`SecureStream.normal_pairs`), whose
radius has a relative resolution of 2^-50 everywhere and whose angle has 53 bits. A pair of steps is
a rectangle of at least 2^-27 by 2^-20 standard deviations, so that it holds more than 2^40 points,
in the tails too. Different numbers are made from different points.

All values are whole numbers below 2^53, and g is a power of two, so float64 adds and scales them
exactly. A plain sum of floating-point numbers takes values that depend on the summands, so its last
bits leak them (Mironov 2012, CCS, "On significance of the least significant bits for differential
privacy"; Haney et al. 2022, arXiv 2207.13793, for Gaussian noise on vectors).
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Stream

# The grid is 2^-30 of the sensitivity, or coarser where noise (2^44 grid steps for one standard
# deviation) or sum (2^48 for its expected size) would not fit into the 53 bits of a float64.
_BITS, _NOISE_BITS, _SUM_BITS = 30, 44, 48
# Numbers drawn together: they stay in the processor's cache, and torch computes them on one thread.
_AT_ONCE = 1 << 15
# Fewest steps of the grid in a standard deviation: with few, rounding would change the law.
_FEWEST = 1 << 10


class DrawnNoise:
    """Noise of one release, in steps of the grid, which is being drawn in the background."""

    def __init__(self, draw: Callable[[], list[Tensor]]) -> None:
        background = ThreadPoolExecutor(1)
        self._drawing: Future[list[Tensor]] | None = background.submit(draw)
        background.shutdown(wait=False)

    def take(self) -> list[Float64[Tensor, " count"]]:
        """Wait for the noise and hand it over, once: two releases never share it."""
        assert self._drawing is not None
        drawing, self._drawing = self._drawing, None
        return drawing.result()


class GaussianNoise:
    """Turns a sum of clipped gradients into what may be released."""

    def __init__(self, plan: PrivacyPlan) -> None:
        self.std = plan.noise_std
        self.denominator = plan.denominator
        self.sensitivity = plan.max_grad_norm * plan.sensitivity_multiplier
        grid = _grid(self.sensitivity, self.std, plan.denominator) if self.std else 0.0
        # Next to no noise, as in a test, has few steps of the finest grid too.
        if self.std < _FEWEST * grid and grid > self.sensitivity * 2.0 ** (1 - _BITS):
            raise DpmixError(
                f"denominator {plan.denominator:g} is too large: the sum's expected size leaves no "
                "bits for the noise; give the expected number of examples in a step"
            )

    def draw(self, like: Sequence[Tensor], rng: Stream) -> DrawnNoise:
        """Begin to draw the noise for tensors of the shapes of `like`, while the sum is computed.

        It depends on shapes and plan alone. Without privacy (std 0) there is none.
        """
        sizes = [one.numel() for one in like] if self.std else []
        steps = self.std and _std_in_steps(sizes, self.std, self.sensitivity, self.denominator)
        return DrawnNoise(lambda: [_whole_noise(size, steps, rng) for size in sizes])

    def release(self, clipped_sum: list[Tensor], drawn: DrawnNoise) -> list[Tensor]:
        """Return (sum + N(0, noise_std^2 I)) / denominator, tensor by tensor, in the same dtypes.

        Called for every step, also for an empty batch, whose sum is zero. Without privacy the sum
        is only divided. `drawn` is what `draw` returned for tensors of these shapes.
        """
        noise = drawn.take()
        if self.std == 0:
            return [total / self.denominator for total in clipped_sum]
        grid = _grid(self.sensitivity, self.std, self.denominator)
        return [
            _added(total, some, grid).div_(self.denominator).to(total.device, total.dtype)
            for total, some in zip(clipped_sum, noise, strict=True)
        ]


def with_noise(
    total: Tensor, std: float, sensitivity: float, addends: float, rng: Stream
) -> Tensor:
    """Return total + N(0, std^2 I) on a grid, drawn and added in float64 on the CPU.

    Args:
        total: a sum, all of which is released.
        std: standard deviation of the noise on every coordinate.
        sensitivity: L2 sensitivity of the sum.
        addends: public estimate of the number of terms in the sum, each at most `sensitivity` long.
            A sum of more than 32 times as many may not fit the grid; it is then rounded like any
            float64.
        rng: stream that the noise is drawn from.
    """
    steps = _std_in_steps([total.numel()], std, sensitivity, addends)
    noise = _whole_noise(total.numel(), steps, rng)
    return _added(total, noise, _grid(sensitivity, std, addends))


def _added(total: Tensor, noise: Float64[Tensor, " count"], grid: float) -> Tensor:
    whole = total.cpu().double().div(grid).round_()
    return noise.view(total.shape).add_(whole).mul_(grid)


def _std_in_steps(sizes: list[int], std: float, sensitivity: float, addends: float) -> float:
    """The noise's standard deviation in steps of the grid, with what rounding a sum asks for."""
    grid = _grid(sensitivity, std, addends)
    return (1 + grid * math.sqrt(sum(sizes)) / sensitivity) * std / grid


def _whole_noise(count: int, std: float, rng: Stream) -> Float64[Tensor, " count"]:
    """Whole numbers with a Gaussian law: a coarse part on multiples of m, plus a fine part."""
    fine = min(2.0**20, std / 2)
    step = max(1.0, 2.0 ** math.floor(math.log2(fine / 8)))
    coarse = math.sqrt(std**2 - fine**2)

    def fill(part: Tensor, one: Tensor, other: Tensor) -> None:
        one.mul_(coarse / step).round_().mul_(step)
        torch.add(one, other.mul_(fine).round_(), out=part)

    noise = torch.empty(count, dtype=torch.float64)
    if isinstance(rng, np.random.Generator):  # its numbers come one after another
        fill(noise, *(torch.from_numpy(rng.standard_normal(count)) for _ in range(2)))
    elif count <= _AT_ONCE:
        fill(noise, *rng.normal_pairs(count))
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as cores:
            list(cores.map(lambda part: fill(part, *rng.normal_pairs(len(part))),
                           noise.split(_AT_ONCE)))  # fmt: skip
    return noise


def _grid(sensitivity: float, std: float, addends: float) -> float:
    """A power of two, far below the sensitivity unless noise or sum would then not be exact."""
    fine = max(
        sensitivity * 2.0**-_BITS, std * 2.0**-_NOISE_BITS, addends * sensitivity * 2.0**-_SUM_BITS
    )
    return 2.0 ** math.ceil(math.log2(fine))
