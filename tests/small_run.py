"""A private run of twelve tiny images and a linear model, for tests of the trainer."""

import math

import numpy as np
import torch
from torch import nn

from dpmix.data.normalization import normalization
from dpmix.data.source import TensorSource
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec

SHAPE = (1, 6, 6)
CLASSES = ("a", "b", "c")


def source(count=12, seed=0):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8))
    return TensorSource(pixels, torch.from_numpy(rng.integers(0, 3, count)), CLASSES)


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def plan(**changes):
    fields = {
        "sampling_rate": 1.0,
        "denominator": 5.0,
        "steps": 4,
        "noise_multiplier": 1.5,
        "max_grad_norm": 0.25,
        "delta": 1e-3,
        "sensitivity_multiplier": 1,
        "target_epsilon": 3.0,
    }
    return PrivacyPlan(**(fields | changes))


def not_private(**settings):
    return PrivacyPlan.calibrate(epsilon=math.inf, delta=1e-3, **settings)


def trainer(run_plan, data=None, *, model=None, method="none", optimizer=None, seed=3, **settings):
    model = model or linear()
    spec = ViewSpec(method, k_base=2, k_self=2, crop_padding=1)
    return PrivateTrainer(
        model,
        data or source(),
        plan=run_plan,
        views=ViewBuilder(spec, 3, normalization("half", 1)),
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=1.0),
        seed=seed,
        **settings,
    )
