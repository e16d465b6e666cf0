"""A small run to audit: four images, a linear model, and as many parameters as canaries need."""

from itertools import count

import numpy as np
import torch
from torch import nn

from dpmix.audit.audit import audit_gradients
from dpmix.audit.canaries import CanaryRun
from dpmix.data.normalization import normalization
from dpmix.data.source import TensorSource
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec

SHAPE, CLASSES = (1, 72, 72), tuple("abcdefgh")
PARAMETERS = 72 * 72 * 8 + 8


def plan(**changes):
    fields = {
        "sampling_rate": 1.0, "denominator": 4.0, "steps": 1, "noise_multiplier": 1.0,
        "max_grad_norm": 0.5, "delta": 1e-5, "sensitivity_multiplier": 1, "target_epsilon": 3.0,
    }  # fmt: skip
    return PrivacyPlan(**(fields | changes))


def linear_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(72 * 72, 8))


def trainer(run_plan, method="mix-self", examples=4, seed=0, momentum=0.0, model=None,
            optimizer=None, views=None, **recorded):  # fmt: skip
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (examples, *SHAPE), dtype=torch.uint8)
    # In the order of a folder: class by class.
    labels = (torch.arange(examples) % len(CLASSES)).sort().values
    data = TensorSource(pixels, labels, CLASSES)
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(72 * 72, 8))
    spec = ViewSpec(method, k_base=2, k_self=2, crop_padding=1)
    return PrivateTrainer(
        model, data, plan=run_plan, engine="examplewise", seed=seed,
        views=views or ViewBuilder(spec, 8, normalization("half", 1)),
        optimizer=optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum),
        **recorded,
    )  # fmt: skip


def planted(run_plan, included=(True,), places=(0,), *, examples=4, **settings):
    """A run with these canaries in it, before its first step."""

    def make(**recorded):
        return trainer(run_plan, examples=examples, **settings, **recorded)

    return CanaryRun(make, run_plan, examples, np.array(included), np.array(places))


def audit(run_plan, *, canaries=40_000, runs=5, confidence=0.95, examples=4, **settings):
    # Seeded, so that a test does not fail once in a while; each run has other random draws.
    seeds = count()

    def make(**recorded):
        return trainer(run_plan, examples=examples, seed=next(seeds), **settings, **recorded)

    return audit_gradients(
        make, plan=run_plan, examples=examples, parameters=PARAMETERS, canaries=canaries,
        runs=runs, confidence=confidence, rng=np.random.default_rng(0),
    )  # fmt: skip
