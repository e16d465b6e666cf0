"""Poisson sampling: each example enters a step independently with probability q.

The accountant assumes exactly this. A shuffled pass or a batch of fixed size is not Poisson
sampling, and an empty batch is a step like any other.
"""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Stream

# Draws at a time: the draws for a billion examples at once would fill 8 GB.
_AT_ONCE = 1 << 22


class PoissonSampler:
    """Draws the examples of a step at the plan's rate.

    Args:
        plan: its `sampling_rate` is q.
        examples: the number of examples to draw from.
    """

    def __init__(self, plan: PrivacyPlan, examples: int) -> None:
        self.rate = plan.sampling_rate
        self.examples = examples

    def draw(self, rng: Stream) -> Int64[Tensor, " B"]:
        """Return the indices of the drawn examples, ascending; B varies by step and may be 0."""
        starts = range(0, self.examples, _AT_ONCE)
        drawn = [
            start + np.flatnonzero(rng.random(min(_AT_ONCE, self.examples - start)) < self.rate)
            for start in starts
        ]
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *drawn]))
