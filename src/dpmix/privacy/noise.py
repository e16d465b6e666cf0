"""Gaussian noise on the sum of clipped gradients: the release.

Formal guarantee: what is released is a function of round(sum / g) + R alone, where the integers R
were drawn without regard to the sum. A real Gaussian's rounding has that law, so the release is
one made of the rounded sum by the Gaussian mechanism and then rounded; and rounding moves the
distance of two neighbours' sums by at most g sqrt(P), which the noise is enlarged for.

Both are whole numbers below 2^53, and g is a power of two, so float64 adds and scales them exactly.
A sum of floating-point numbers instead takes values that depend on what was added: their last bits
betray it (Mironov 2012, CCS, "On significance of the least significant bits for differential
privacy"; Haney et al. 2022, arXiv 2207.13793, for Gaussian noise on vectors).
"""

import math

import torch
from torch import Tensor

from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.secure_stream import Stream

# Bits below the sensitivity, while noise and sum leave so many within a float64's 53.
_BITS, _NOISE_BITS, _SUM_BITS = 30, 44, 48


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
        noise = torch.from_numpy(rng.standard_normal(total.numel())).view(total.shape)
        whole = total.cpu().double().div(grid).round_()
        noisy.append(noise.mul_(steps).round_().add_(whole).mul_(grid))
    return noisy


def _grid(sensitivity: float, std: float, addends: float) -> float:
    """A power of two: far below the sensitivity, unless noise or sum would then not be exact."""
    fine = max(
        sensitivity * 2.0**-_BITS, std * 2.0**-_NOISE_BITS, addends * sensitivity * 2.0**-_SUM_BITS
    )
    return 2.0 ** math.ceil(math.log2(fine))
