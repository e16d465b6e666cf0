"""Gaussian noise on the sum of clipped gradients: the release.

The noise is drawn and added in float64 on the host, whatever the device, and rounded once: float32
draws would cut the tails at 24 bits, and a device's own generator may keep few bits of its seed.
What floating point does not guarantee is in the README's limits.
"""

import numpy as np
import torch
from torch import Tensor

from dpmix.privacy.plan import PrivacyPlan


class GaussianNoise:
    """Turns a sum of clipped gradients into what may be released."""

    def __init__(self, plan: PrivacyPlan) -> None:
        self.std = plan.noise_std
        self.denominator = plan.denominator

    def release(self, clipped_sum: list[Tensor], rng: np.random.Generator) -> list[Tensor]:
        """Return (sum + N(0, noise_std^2 I)) / denominator, tensor by tensor, in the same dtypes.

        Called for every step, also for an empty draw, whose sum is zero. Without privacy (std 0)
        only the division is left.
        """
        if self.std == 0:
            return [total / self.denominator for total in clipped_sum]
        return [self._noisy(total, rng) for total in clipped_sum]

    def _noisy(self, total: Tensor, rng: np.random.Generator) -> Tensor:
        noise = torch.from_numpy(rng.standard_normal(total.numel())).view(total.shape)
        noisy = noise.mul_(self.std).add_(total.cpu()).div_(self.denominator)
        return noisy.to(total.device, total.dtype)
