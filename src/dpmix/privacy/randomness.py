"""Where a run's random draws come from: the operating system, unless a seed is given.

Every step has its own streams, one for each use, so drawing more views never moves the noise, and
no generator state is ever saved. Sampling and noise, on which the guarantee rests, use the
operating system's cryptographic generator: an ordinary one has a state that a release might reveal,
and with it every later draw. All other streams, and all of a seeded run, are numpy's with 128 bits:
torch's CPU generator keeps 32 bits of its seed, few enough to try them all on a released model.

Anyone who knows the seed can recompute the noise. A seeded run therefore has no privacy against
them, and every output of it says so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

# Words at a time, so that the numbers made from them stay in the processor's cache.
_AT_ONCE = 1 << 17

_PUBLIC, _STEP = 0, 1


class SecureStream:
    """The part of `numpy.random.Generator` that private draws need, on fresh system entropy."""

    def random(self, size: int) -> Float64[np.ndarray, " size"]:
        """Uniform numbers in [0, 1), with 53 bits."""
        return (_words(size).numpy().view(np.uint64) >> np.uint64(11)) * 2.0**-53

    def standard_normal(self, size: int) -> Float64[np.ndarray, " size"]:
        """Normal numbers: a random sign, times the inverse CDF at a uniform number below 1/2.

        That number has 53 bits, and 53 more where it is small. Without them, numbers in the tails
        would lie so far apart that some places between them would never be hit.
        """
        drawn = torch.empty(size, dtype=torch.float64)
        for part in drawn.split(_AT_ONCE):
            words = _words(len(part))
            # The lower half of the distribution: near 1 the 53 bits could not tell numbers from 1.
            half = (words & (1 << 53) - 1).double()
            small = torch.nonzero(half < 2.0**32).flatten()
            half.add_(0.5)
            half[small] += torch.from_numpy(self.random(len(small))) - 0.5
            below_half = half.clamp_(min=2.0**-53).mul_(2.0**-54)
            sign = (words >> 63).double().mul_(2.0).add_(1.0)  # -1 where the sign bit is set
            torch.mul(torch.special.ndtri(below_half), sign, out=part)
        return drawn.numpy()


def _words(count: int) -> Int64[Tensor, " count"]:
    """Words of 64 random bits from the operating system."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    return torch.frombuffer(bytearray(os.urandom(8 * count)), dtype=torch.int64)


Stream = np.random.Generator | SecureStream


@dataclass(frozen=True)
class StepRandomness:
    """Independent streams for one step of one process.

    Attributes:
        sampling: draws the examples that enter the step.
        views: draws the augmentations and mixtures.
        noise: draws the Gaussian noise.
        model: seed for torch's global generator, which dropout uses.
    """

    sampling: Stream
    views: np.random.Generator
    noise: Stream
    model: int


class Randomness:
    """All random streams of a run.

    Args:
        seed: repeats all streams; None takes fresh entropy from the operating system.
        rank: number of the process in distributed training; each has its own streams.

    Attributes:
        seeded: whether a seed was given.
        model: seed of the initial weights, which are public.
        public: stream for draws that read public images only.
    """

    def __init__(self, seed: int | None, rank: int = 0) -> None:
        self.seeded = seed is not None
        self._root, self._rank = np.random.SeedSequence(seed).entropy, rank
        model, public = self._spawned((_PUBLIC,), 2)
        self.model = _as_seed(model)
        self.public = np.random.default_rng(public)

    def step(self, step: int) -> StepRandomness:
        """The streams of step `step`, counted from 0."""
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
    """Seed torch's global generators inside the block, and restore them after it."""
    gpus = range(torch.cuda.device_count()) if device.type == "cuda" else ()
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=list(gpus)):
        torch.manual_seed(seed)
        yield
    if mps is not None:
        torch.mps.set_rng_state(mps)


def _as_seed(stream: np.random.SeedSequence) -> int:
    return int(stream.generate_state(1)[0])
