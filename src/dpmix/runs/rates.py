"""The learning rate of a run whose user chose none; docs/defaults.md says why.

Guarantee: as in `runs/defaults.py`, no rule reads an image or a label.
"""

import math

from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.config import Config
from dpmix.runs.from_scratch import from_scratch

MOMENTUM = 0.9

# The standard deviation that the noise of all steps may leave in a weight, and the rate without
# privacy. Those of a head, with its largest rate, are for features of length one.
SCRATCH_WEIGHT_NOISE, SCRATCH_RATE_WITHOUT_PRIVACY = 0.15, 0.2
WEIGHT_NOISE, LARGEST_HEAD_RATE, HEAD_RATE_WITHOUT_PRIVACY = 2.0, 64.0, 16.0

# What the noise of all steps may leave in a weight of a head that has a start: a part of
# WEIGHT_NOISE. It grows with N epsilon / L, what private images can tell of a class, and is whole
# from this value on (docs/defaults.md).
WHOLE_START, START_POWER = 860.0, 2 / 3


def choose_rate(config: Config, plan: PrivacyPlan, classes: int) -> Config:
    """Choose SGD's momentum and the learning rate: as large as the noise of the run allows."""
    optimizer = config.optimizer
    momentum = MOMENTUM if optimizer.momentum is None else optimizer.momentum
    if optimizer.optimizer.lower() == "sgd" and "momentum" not in optimizer.optimizer_options:
        optimizer = optimizer.model_copy(update={"momentum": momentum})
    if optimizer.learning_rate is None:
        still = 1 - momentum
        if config.model.model is None:
            rate = _head_rate(plan, still, config, classes)
        else:
            rate = _rate(plan, still, from_scratch(config.model.model).largest_rate)
        optimizer = optimizer.model_copy(update={"learning_rate": float(f"{rate:.3g}")})
    return config.model_copy(update={"optimizer": optimizer})


def _rate(plan: PrivacyPlan, still: float, largest: float) -> float:
    """From scratch. Nearly every gradient is clipped to C, so the bound goes with 1 / C."""
    if not plan.private:
        return SCRATCH_RATE_WITHOUT_PRIVACY * still
    largest = largest * still / plan.max_grad_norm
    return min(largest, SCRATCH_WEIGHT_NOISE * _rate_for_unit_noise(plan, still))


def _head_rate(plan: PrivacyPlan, still: float, config: Config, classes: int) -> float:
    """Of a head: features of length F need weights F times smaller, without clipping F squared."""
    model, part = config.model, 1.0
    length = model.feature_length
    if not plan.private:
        # A mean over L labels has L times smaller gradients, which clipping would hide.
        labels = classes if config.data.task == "multi-label" else 1
        return labels * HEAD_RATE_WITHOUT_PRIVACY / length**2
    if model.head_start != "zero":
        known = plan.denominator / plan.sampling_rate * plan.target_epsilon / classes
        part = min(1.0, (known / WHOLE_START) ** START_POWER)
    largest = LARGEST_HEAD_RATE / plan.max_grad_norm
    return part * min(largest, WEIGHT_NOISE * _rate_for_unit_noise(plan, still)) / length


def _rate_for_unit_noise(plan: PrivacyPlan, still: float) -> float:
    """The rate whose noise leaves a standard deviation of one in each weight.

    T steps of rate r and momentum m = 1 - `still` leave r / (1 - m) sigma C sqrt(T) / denominator.
    """
    return still * plan.denominator / (plan.noise_std * math.sqrt(max(plan.steps, 1)))
