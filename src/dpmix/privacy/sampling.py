"""Poisson sampling: each example enters a step independently with probability q.

This is the sampling that the accountant assumes. A shuffled pass or a batch of fixed size is not,
and an empty draw is a step like any other.
"""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.privacy.plan import PrivacyPlan


class PoissonSampler:
    """Draws the examples of a step, at the plan's rate."""

    def __init__(self, plan: PrivacyPlan, examples: int) -> None:
        self.rate = plan.sampling_rate
        self.examples = examples

    def draw(self, rng: np.random.Generator) -> Int64[Tensor, " B"]:
        """Indices of the drawn examples in ascending order; B varies from step to step, to 0."""
        return torch.from_numpy(np.flatnonzero(rng.random(self.examples) < self.rate))
