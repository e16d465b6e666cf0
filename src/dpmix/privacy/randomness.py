"""Where a run's coins come from: the operating system, unless a seed is given.

Every step has streams of its own, one for each use: drawing more views never moves the noise, and a
seeded run that goes on after step t needs nothing but its seed and t. So no state of a generator is
ever saved, and an unseeded run that goes on draws fresh entropy. What the guarantee counts on,
draws and noise, then comes from a cryptographic generator. Other streams, and those of a seed, are
numpy's, of 128 bits: torch's generator on the CPU keeps only 32 bits of its seed, few enough to try
them all against a released model. A seed makes the noise recomputable by anyone who knows it: then
there is no privacy against them, and every output of such a run says so.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from dpmix.privacy.secure_stream import SecureStream, Stream

_PUBLIC, _STEP = 0, 1


@dataclass(frozen=True)
class StepRandomness:
    """Independent streams for one step of one process.

    Attributes:
        sampling: which examples enter the step.
        views: the coins of the views.
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
