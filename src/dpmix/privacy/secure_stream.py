"""Coins from the operating system's cryptographic generator, which nobody can compute.

An ordinary generator has a state that a release might betray, and with it all that it draws later;
the guarantee counts on draws and noise that stay unknown. Whoever asks for a seed does without.
"""

import os

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

# Words at a time: what is made of them stays in the cache.
_AT_ONCE = 1 << 17
_SMALL = 2.0**32


class SecureStream:
    """Has of `numpy.random.Generator` what private coins need; every call reads fresh entropy."""

    def random(self, size: int) -> Float64[np.ndarray, " size"]:
        """Uniform numbers in [0, 1), of 53 bits."""
        return (_words(size).numpy().view(np.uint64) >> np.uint64(11)) * 2.0**-53

    def standard_normal(self, size: int) -> Float64[np.ndarray, " size"]:
        """Normal numbers: a sign, and the inverse of the distribution function at a random half.

        That has 53 bits, and 53 more where it is small: in the tails the numbers would otherwise
        lie so far apart that some places between them are never hit.
        """
        drawn = torch.empty(size, dtype=torch.float64)
        for part in drawn.split(_AT_ONCE):
            words = _words(len(part))
            # Half the distribution: near 1 its 53 bits would be too few to tell numbers from 1.
            half = (words & (1 << 53) - 1).double()
            small = torch.nonzero(half < _SMALL).flatten()
            half.add_(0.5)
            half[small] += torch.from_numpy(self.random(len(small))) - 0.5
            below_half = half.clamp_(min=2.0**-53).mul_(2.0**-54)
            sign = (words >> 63).double().mul_(2.0).add_(1.0)  # of a sign bit that is set, -1
            torch.mul(torch.special.ndtri(below_half), sign, out=part)
        return drawn.numpy()


def _words(count: int) -> Int64[Tensor, " count"]:
    """So many words of 64 random bits."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    return torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64)


Stream = np.random.Generator | SecureStream
"""Where private coins come from: the operating system, or a seed."""
