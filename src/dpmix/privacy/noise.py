"""Gaussian noise on the sum of clipped gradients: the release.

Formal guarantee: what is released is a function of round(sum / g) + R alone, where the integers R
were drawn without regard to the sum. R = m round(N(0, a^2) / m) + round(N(0, b^2)), with a^2 + b^2
the variance in units of g, and m = b / 8: a Gaussian mechanism's output, with a uniform number of
width m added and rounded, has that law up to a relative exp(-2 (8 pi)^2), by Poisson's summation.
Both are post-processing. And rounding moves the distance of two neighbours' sums by at most
g sqrt(P), which the noise is enlarged for.

Two parts, because float64 has too few normal numbers to hit every multiple of a fine grid evenly:
whoever knows which are missed could exclude a sum for certain. Each part is so coarse that a step
of it holds hundreds of numbers in the tails, millions in the middle, and each fills the other's
gaps.

All are whole numbers below 2^53, and g is a power of two, so float64 adds and scales them exactly.
A sum of floating-point numbers instead takes values that depend on what was added: their last bits
betray it (Mironov 2012, CCS, "On significance of the least significant bits for differential
privacy"; Haney et al. 2022, arXiv 2207.13793, for Gaussian noise on vectors).
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Stream

# Bits below the sensitivity, while noise and sum leave so many within a float64's 53.
_BITS, _NOISE_BITS, _SUM_BITS = 30, 44, 48


# Standard deviation of the fine part of the noise, in units of the grid.
_FINE = 2.0**20


class GaussianNoise:
    """Turns a sum of clipped gradients into what may be released."""

    def __init__(self, plan: PrivacyPlan) -> None:
        self.std = plan.noise_std
        self.denominator = plan.denominator
        self.sensitivity = plan.max_grad_norm * plan.sensitivity_multiplier

    def release(self, clipped_sum: list[Tensor], rng: Stream) -> list[Tensor]:
        """Return (sum + N(0, noise_std^2 I)) / denominator, tensor by tensor, in the same dtypes.

        Called for every step, also for an empty draw, whose sum is zero. Without privacy (std 0)
        only the division is left.
        """
        if self.std == 0:
            return [total / self.denominator for total in clipped_sum]
        noisy = with_noise(clipped_sum, self.std, self.sensitivity, self.denominator, rng)
        return [
            some.div_(self.denominator).to(total.device, total.dtype)
            for some, total in zip(noisy, clipped_sum, strict=True)
        ]


def with_noise(
    sums: list[Tensor], std: float, sensitivity: float, addends: float, rng: Stream
) -> list[Tensor]:
    """Return sums + N(0, std^2 I) on a grid, drawn and added in float64 on the host.

    Args:
        sums: all that is released together.
        std: of the noise, when the sums' sensitivity is
        sensitivity: over all tensors together.
        addends: public: about as many terms of that size are added up. Of more than 32 times so
            many the sum may not fit, and is rounded as any float64 is.
        rng: of the noise.
    """
    grid = _grid(sensitivity, std, addends)
    coordinates = sum(total.numel() for total in sums)
    steps = (1 + grid * math.sqrt(coordinates) / sensitivity) * std / grid
    noisy = []
    for total in sums:
        whole = total.cpu().double().div(grid).round_()
        noisy.append(
            _whole_noise(total.numel(), steps, rng).view(total.shape).add_(whole).mul_(grid)
        )
    return noisy


def _whole_noise(count: int, std: float, rng: Stream) -> Float64[Tensor, " count"]:
    """Whole numbers of a Gaussian's law, in two parts: the coarse one on multiples of m."""
    fine = min(_FINE, std / 2)
    step = max(1.0, 2.0 ** math.floor(math.log2(fine / 8)))
    coarse = math.sqrt(std**2 - fine**2)
    one = torch.from_numpy(rng.standard_normal(count)).mul_(coarse / step).round_().mul_(step)
    return one.add_(torch.from_numpy(rng.standard_normal(count)).mul_(fine).round_())


def _grid(sensitivity: float, std: float, addends: float) -> float:
    """A power of two: far below the sensitivity, unless noise or sum would then not be exact."""
    fine = max(
        sensitivity * 2.0**-_BITS, std * 2.0**-_NOISE_BITS, addends * sensitivity * 2.0**-_SUM_BITS
    )
    return 2.0 ** math.ceil(math.log2(fine))
