"""Poisson sampling: each example enters a step independently with probability q.

The accountant assumes exactly this. A shuffled pass or a batch of fixed size is not Poisson
sampling, and an empty batch is a step like any other. Units may have smaller rates than q, each
chosen by that unit alone (`privacy/balance.py` proves that q covers them).
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Stream

# Draws at a time: the draws for a billion examples at once would fill 8 GB.
_AT_ONCE = 1 << 22


class PoissonSampler:
    """Draws the examples of a step at the plan's rate.

    Args:
        plan: its `sampling_rate` is q.
        examples: the number of examples to draw from.
        weights: in (0, 1]: example i is drawn at rate weights[i] q. None: all at rate q.

    Raises:
        DpmixError: a weight outside (0, 1].
    """

    def __init__(
        self, plan: PrivacyPlan, examples: int, weights: Float64[Tensor, " N"] | None = None
    ) -> None:
        self.rate = plan.sampling_rate
        self.examples = examples
        if weights is not None and not bool(((weights > 0) & (weights <= 1)).all()):
            raise DpmixError(
                f"sampling weights are {float(weights.min()):g} to {float(weights.max()):g}; "
                "expected numbers above 0 and at most 1: a larger one would draw above the plan's "
                "rate"
            )
        # Broadcast: the rates of a billion examples would fill as much.
        own = np.ones(1) if weights is None else weights.numpy()
        self._rates = np.broadcast_to(self.rate * own, (examples,))

    def draw(self, rng: Stream) -> Int64[Tensor, " B"]:
        """Return the indices of the drawn examples, ascending; B varies by step and may be 0."""
        drawn = []
        for start in range(0, self.examples, _AT_ONCE):
            rates = self._rates[start : start + _AT_ONCE]
            drawn.append(start + np.flatnonzero(rng.random(len(rates)) < rates))
        return torch.from_numpy(np.concatenate([np.empty(0, np.int64), *drawn]))
