"""`metrics.json`: what was measured on images that are not protected."""

import platform
from typing import Any

import torch

from dpmix.config import Config
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.loop import History

# Where it ran, and which engine was the fastest there, depends on what else ran at the time.
_NOT_TOLD = "not told of a private selection's run"


def metrics(
    config: Config, plan: PrivacyPlan, history: History, parameters: int, engine: str
) -> dict[str, Any]:
    """Accuracy of the averaged weights at the latest evaluation and over the run.

    Args:
        config: the run's settings.
        plan: what ran.
        history: what was evaluated.
        parameters: how many were trained.
        engine: that computed the clipped sums.
    """
    assert history.last is not None
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if plan.expected_runs is not None:
        engine = machine = _NOT_TOLD
    worst, worst_accuracy = history.last.worst_class
    return {
        "private": plan.private,
        "method": config.views.method,
        "model": config.model.model or config.model.backbone,
        "parameters": parameters,
        "judged_on": config.data.judged_on,
        "accuracy": history.last.accuracy,
        "evaluation_loss": history.last.loss,
        "images": history.last.images,
        "worst_class": {"name": worst, "accuracy": worst_accuracy},
        "calibration_error": history.last.calibration_error,
        "class_accuracy": history.last.class_accuracy,
        "confusion": history.last.confusion,
        "reliability": history.last.reliability,
        "weights": "exponential moving average, last",
        "curve": history.points,
        "seed": config.run.seed,
        "engine": engine,
        "machine": machine,
    }
