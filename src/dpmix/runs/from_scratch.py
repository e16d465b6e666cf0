"""Batch, steps and views of a network from scratch, where the user chose none.

Guarantee: as in `runs/defaults.py`, no rule reads an image or a label. docs/defaults.md says why.
"""

import math
from typing import NamedTuple

from dpmix.models.scatter_cnn import SCATTER_CNN
from dpmix.runs.config import Config
from dpmix.runs.settings import ViewConfig


class FromScratch(NamedTuple):
    """How a network is trained: T = N epsilon / `images_per_step`, up to `most_steps`."""

    batch: int = 2048
    images_per_step: int = 250
    most_steps: int = 800
    largest_rate: float = 10.0


# Fewer and larger steps for the small network on maps (docs/results/scatter-cnn.md).
_OTHERS = {SCATTER_CNN: FromScratch(8192, 1000, 300, 40.0)}

STEPS = 50  # at least
STEPS_WITHOUT_PRIVACY, MOST_EPSILON = 400, 8.0

SMALL = (SCATTER_CNN, "cnn-small")
_VIEWS_OF_A_RUN, _MOST_VIEWS = 200_000, 8


def from_scratch(model: str) -> FromScratch:
    """How `model` is trained."""
    return _OTHERS.get(model, FromScratch())


def scratch_steps(model: str, n: int, epsilon: float) -> int:
    """T: with more images or a larger epsilon the noise allows more steps."""
    if math.isinf(epsilon):
        return STEPS_WITHOUT_PRIVACY
    rule = from_scratch(model)
    wanted = n * min(epsilon, MOST_EPSILON) / rule.images_per_step
    return round(min(rule.most_steps, max(STEPS, wanted)))


def choose_few_views(config: Config, given: ViewConfig, n: int) -> Config:
    """Choose K_BASE of a small network, so that its views are as many for any N.

    Those of all steps count for `cnn-small`, and those that are embedded for `scatter-cnn`. `given`
    has the views that the user asked for.
    """
    name, privacy = config.model.model, config.privacy
    if name not in SMALL or config.views.method != "self-aug":
        return config
    if given.k_base is not None or not privacy.n_is_public:
        return config
    if name == SCATTER_CNN:
        drawn = float(n)
    elif privacy.epochs is not None:
        drawn = privacy.epochs * n
    else:
        batch, steps = privacy.expected_batch_size, privacy.steps
        batch = min(from_scratch(name).batch, n) if batch is None else batch
        drawn = batch * (scratch_steps(name, n, privacy.epsilon) if steps is None else steps)
    if not drawn > 0:  # the plan refuses by name what makes it so, NaN included
        return config
    # A view or more of each of a person's images.
    least = config.views.images_per_person or 1
    k_base = max(least, min(_MOST_VIEWS, max(1, round(_VIEWS_OF_A_RUN / drawn))))
    return config.model_copy(update={"views": config.views.model_copy(update={"k_base": k_base})})
