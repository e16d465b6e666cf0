"""Where a run's random draws come from: the operating system, unless a seed is given.

Every step has its own streams, one for each use, so drawing more views never moves the noise, and
no generator state is ever saved. Sampling and noise, on which the guarantee rests, use a
cryptographic stream with keys from the operating system: an ordinary one has a state that a release
might reveal, and with it every later draw. All other streams, and all of a seeded run, are numpy's
with 128 bits: torch's CPU generator keeps 32 bits of its seed, few enough to try them all on a
released model.

Anyone who knows the seed can recompute the noise. A seeded run therefore has no privacy against
them, and every output of it says so.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from jaxtyping import Float64, Int64
from torch import Tensor

_PUBLIC, _STEP, _COUNT = 0, 1, 2
_LOW = (1 << 53) - 1  # the lower 53 bits of a word
_ZEROS = bytes(1 << 20)  # what a key stream is added to


class SecureStream:
    """Uniform and normal numbers for private draws, from fresh system entropy.

    Each call takes a key of 256 bits from the operating system, and expands it by AES in counter
    mode: a quarter of the time that the operating system takes for as many bits. To tell
    them from random bits is to tell AES from a random function.
    """

    def random(self, size: int) -> Float64[np.ndarray, " size"]:
        """Uniform numbers in [0, 1), with 53 bits."""
        return (_words(size) & _LOW).double().mul_(2.0**-53).numpy()

    def normal_pairs(self, size: int) -> tuple[Float64[Tensor, " size"], Float64[Tensor, " size"]]:
        """Pairs of independent normal numbers: a point of random angle and squared radius.

        Half of the squared radius is exponential (Box and Muller 1958, Annals of Mathematical
        Statistics 29:610): minus the logarithm of a uniform number. That number has 53 bits, and 53
        more where it is small; where it is near one, they are added to the logarithm. Without them
        points would lie so far apart, in the tails and at zero, that some places were never hit.
        """
        words = _words(3 * size).view(3, size)
        # Row by row: torch computes as few numbers on one thread, and this one is not alone.
        uniform = (words[0] & _LOW).double().mul_(2.0**-53)
        more = (words[1] & _LOW).double().mul_(2.0**-106)
        half = more - uniform.add_(more).clamp_(min=2.0**-107).log_()
        radius = half.mul_(2.0).sqrt_()
        angle = words[2].double().mul_(math.pi * 2.0**-63)
        return angle.cos().mul_(radius), angle.sin_().mul_(radius)


def _words(count: int) -> Int64[Tensor, " count"]:
    """Words of 64 random bits."""
    if 8 * count > len(_ZEROS):
        return torch.cat([_words(count // 2), _words(count - count // 2)])
    # Older releases of the library want room for one block more than they write.
    words = torch.empty(count + 2, dtype=torch.int64)
    stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(bytes(16))).encryptor()
    stream.update_into(memoryview(_ZEROS)[: 8 * count], words.numpy().data.cast("B"))
    return words[:count]


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
        count: stream of the noise on the counts of the classes.
    """

    def __init__(self, seed: int | None, rank: int = 0) -> None:
        self.seeded = seed is not None
        self._root, self._rank = np.random.SeedSequence(seed).entropy, rank
        model, public = self._spawned((_PUBLIC,), 2)
        self.model = _as_seed(model)
        self.public = np.random.default_rng(public)
        self.count = self._private(self._spawned((_COUNT,), 1)[0])

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
