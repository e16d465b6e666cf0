"""A small run to audit: four images, a linear model, and as many parameters as canaries need."""

from itertools import count

import numpy as np
import torch
from torch import nn

from dpmix.audit.audit import audit_gradients
from dpmix.audit.canaries import CanaryTrainer
from dpmix.data.normalization import normalization
from dpmix.data.source import TensorSource
from dpmix.privacy.plan import PrivacyPlan
from dpmix.views import ViewBuilder, ViewSpec

SHAPE, CLASSES = (1, 72, 72), tuple("abcdefgh")


def plan(**changes):
    fields = {
        "sampling_rate": 1.0, "denominator": 4.0, "steps": 1, "noise_multiplier": 1.0,
        "max_grad_norm": 0.5, "delta": 1e-5, "sensitivity_multiplier": 1, "target_epsilon": 3.0,
    }  # fmt: skip
    return PrivacyPlan(**(fields | changes))


def trainer(run_plan, method="mix-self", examples=4, seed=0, momentum=0.0):
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (examples, *SHAPE), dtype=torch.uint8)
    # In the order of a folder: class by class.
    labels = (torch.arange(examples) % len(CLASSES)).sort().values
    data = TensorSource(pixels, labels, CLASSES)
    model = nn.Sequential(nn.Flatten(), nn.Linear(5184, 8))
    spec = ViewSpec(method, k_base=2, k_self=2, crop_padding=1)
    return CanaryTrainer(
        model, data, plan=run_plan, views=ViewBuilder(spec, 8, normalization("half", 1)),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum),
        engine="examplewise", seed=seed,
    )  # fmt: skip


def audit(run_plan, *, canaries=40_000, runs=5, confidence=0.95, **settings):
    # Seeded, so that a test does not fail once in a while; of each run, random draws of its own.
    seeds = count()
    return audit_gradients(
        lambda: trainer(run_plan, seed=next(seeds), **settings), canaries=canaries, runs=runs,
        confidence=confidence, rng=np.random.default_rng(0),
    )  # fmt: skip
