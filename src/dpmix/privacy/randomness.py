"""Where a run's random draws come from: the operating system, unless a seed is given.

Every step has streams of its own, one for each use: drawing more views never moves the noise, and a
seeded run that goes on after step t needs nothing but its seed and t. So no state of a generator is
ever saved, and an unseeded run that goes on draws fresh entropy. What the guarantee counts on,
draws and noise, then comes from a cryptographic generator. Other streams, and those of a seed, are
numpy's, of 128 bits: torch's generator on the CPU keeps only 32 bits of its seed, few enough to try
them all against a released model. A seed makes the noise recomputable by anyone who knows it: then
there is no privacy against them, and every output of such a run says so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

# Random draws from the operating system's cryptographic generator, which nobody can compute.
#
# An ordinary generator has a state that a release might betray, and with it all that it draws
# later; the guarantee counts on draws and noise that stay unknown. Whoever asks for a seed does
# without.


# Words at a time: what is made of them stays in the cache.
_AT_ONCE = 1 << 17


_SMALL = 2.0**32


class SecureStream:
    """Has of `numpy.random.Generator` what private draws need; every call reads fresh entropy."""

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


"""Where private random draws come from: the operating system, or a seed."""


_PUBLIC, _STEP = 0, 1


@dataclass(frozen=True)
class StepRandomness:
    """Independent streams for one step of one process.

    Attributes:
        sampling: which examples enter the step.
        views: the random draws of the views.
        noise: for the Gaussian noise.
        model: seed for the global torch generator, which dropout draws from.
    """

    sampling: Stream
    views: np.random.Generator
    noise: Stream
    model: int


class Randomness:
    """The streams of a run; a seed repeats them all.

    Args:
        seed: None reads the operating system's entropy source.
        rank: of the process, where several train together; each has steps of its own.
    """

    def __init__(self, seed: int | None, rank: int = 0) -> None:
        self.seeded = seed is not None
        self._root, self._rank = np.random.SeedSequence(seed).entropy, rank
        model, public = self._spawned((_PUBLIC,), 2)
        # Initial weights are public, and so is what is drawn where only public images are read.
        self.model = _as_seed(model)
        self.public = np.random.default_rng(public)

    def step(self, step: int) -> StepRandomness:
        """The streams of step `step`, from 0."""
        sampling, views, noise, model = self._spawned((_STEP, self._rank, step), 4)
        return StepRandomness(
            sampling=self._private(sampling),
            views=np.random.default_rng(views),
            noise=self._private(noise),
            model=_as_seed(model),
        )

    def _private(self, stream: np.random.SeedSequence) -> Stream:
        return np.random.default_rng(stream) if self.seeded else SecureStream()

    def _spawned(self, key: tuple[int, ...], uses: int) -> list[np.random.SeedSequence]:
        return np.random.SeedSequence(self._root, spawn_key=key).spawn(uses)


@contextmanager
def torch_seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the body, and leave them as they were."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(seed)
        yield
    if mps is not None:
        torch.mps.set_rng_state(mps)


def _as_seed(stream: np.random.SeedSequence) -> int:
    return int(stream.generate_state(1)[0])
