"""Gaussian noise on the sum of clipped gradients: the release.

Formal guarantee: the release is a function of round(sum / g) + R alone, where the integers R are
drawn without regard to the sum. R = m round(N(0, a^2) / m) + round(N(0, b^2)), where a^2 + b^2 is
the variance in units of g, and m = b / 8. By Poisson's summation formula, R has the law, up to a
relative exp(-2 (8 pi)^2), of the output of a Gaussian mechanism to which a uniform number of width
m is added before rounding. Both are post-processing. Rounding moves the distance between two
neighbours' sums by at most g sqrt(P) for P coordinates, and the noise is enlarged for that.

Two parts are needed because float64 has too few normal numbers to hit every multiple of a fine grid
evenly: an attacker who knows the missed ones could exclude a sum for certain. Each part is so
coarse that one step of it holds hundreds of numbers in the tails and millions in the middle, and
each part fills the other's gaps.

All values are whole numbers below 2^53, and g is a power of two, so float64 adds and scales them
exactly. A plain sum of floating-point numbers takes values that depend on the summands, so its last
bits leak them (Mironov 2012, CCS, "On significance of the least significant bits for differential
privacy"; Haney et al. 2022, arXiv 2207.13793, for Gaussian noise on vectors).
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Stream

# The grid is 2^-30 of the sensitivity, or coarser where noise (2^44 grid steps for one standard
# deviation) or sum (2^48 for its expected size) would not fit into the 53 bits of a float64.
_BITS, _NOISE_BITS, _SUM_BITS = 30, 44, 48


class GaussianNoise:
    """Turns a sum of clipped gradients into what may be released."""

    def __init__(self, plan: PrivacyPlan) -> None:
        self.std = plan.noise_std
        self.denominator = plan.denominator
        self.sensitivity = plan.max_grad_norm * plan.sensitivity_multiplier

    def release(self, clipped_sum: list[Tensor], rng: Stream) -> list[Tensor]:
        """Return (sum + N(0, noise_std^2 I)) / denominator, tensor by tensor, in the same dtypes.

        Called for every step, also for an empty batch, whose sum is zero. Without privacy (std 0)
        the sum is only divided.
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
    """Return sums + N(0, std^2 I) on a grid, drawn and added in float64 on the CPU.

    Args:
        sums: all tensors that are released together.
        std: standard deviation of the noise on every coordinate.
        sensitivity: L2 sensitivity of all the tensors together.
        addends: public estimate of the number of terms in the sum, each at most `sensitivity` long.
            A sum of more than 32 times as many may not fit the grid; it is then rounded like any
            float64.
        rng: stream that the noise is drawn from.
    """
    grid = _grid(sensitivity, std, addends)
    coordinates = sum(total.numel() for total in sums)
    steps = (1 + grid * math.sqrt(coordinates) / sensitivity) * std / grid
    noisy = []
    for total in sums:
        whole = total.cpu().double().div(grid).round_()
        noise = _whole_noise(total.numel(), steps, rng).view(total.shape)
        noisy.append(noise.add_(whole).mul_(grid))
    return noisy


def _whole_noise(count: int, std: float, rng: Stream) -> Float64[Tensor, " count"]:
    """Whole numbers with a Gaussian law: a coarse part on multiples of m, plus a fine part."""
    fine = min(2.0**20, std / 2)
    step = max(1.0, 2.0 ** math.floor(math.log2(fine / 8)))
    coarse = math.sqrt(std**2 - fine**2)
    one = torch.from_numpy(rng.standard_normal(count)).mul_(coarse / step).round_().mul_(step)
    return one.add_(torch.from_numpy(rng.standard_normal(count)).mul_(fine).round_())


def _grid(sensitivity: float, std: float, addends: float) -> float:
    """A power of two, far below the sensitivity unless noise or sum would then not be exact."""
    fine = max(
        sensitivity * 2.0**-_BITS, std * 2.0**-_NOISE_BITS, addends * sensitivity * 2.0**-_SUM_BITS
    )
    return 2.0 ** math.ceil(math.log2(fine))
