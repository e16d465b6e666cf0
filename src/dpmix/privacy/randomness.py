"""Where a run's coins come from: the operating system, unless a seed is given.

Each use has a stream of its own, so that drawing more views never moves the noise. The streams are
numpy's, whose state is filled from 128 bits of entropy: torch's generator on the CPU keeps only 32
bits of its seed, few enough to try them all against a released model. A seed makes the noise
recomputable by anyone who knows it: then there is no privacy against them, and every output of such
a run says so.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Randomness:
    """Independent streams for one run.

    Attributes:
        sampling: which examples enter a step.
        views: the coins of the views.
        noise: for the Gaussian noise; never saved.
        model: seed for the global torch generator: initial weights, which are public, and dropout.
        public: what is drawn where only public images are read.
    """

    sampling: np.random.Generator
    views: np.random.Generator
    noise: np.random.Generator
    model: int
    public: np.random.Generator

    @classmethod
    def create(cls, seed: int | None) -> "Randomness":
        """Open the streams; `seed` None reads the operating system's entropy source."""
        sampling, views, noise, model, public = np.random.SeedSequence(seed).spawn(5)
        return cls(
            sampling=np.random.default_rng(sampling),
            views=np.random.default_rng(views),
            noise=np.random.default_rng(noise),
            model=int(model.generate_state(1)[0]),
            public=np.random.default_rng(public),
        )
