"""`metrics.json`: what was measured on images that are not protected."""

import platform
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from dpmix.data.splits import JudgedOn
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.statement import Infinite, Part, Share, read_json
from dpmix.runs.config import Config
from dpmix.training.evaluate import has_diverged
from dpmix.training.loop import History

# What `metrics.json` holds, field by field.


class WorstClass(Part):
    """The class with the lowest accuracy."""

    name: str
    accuracy: Share


class ReliabilityBin(Part):
    """Images of about the same confidence."""

    images: int = Field(ge=1)
    confidence: Share
    accuracy: Share


class Point(Part):
    """An evaluation on the way."""

    step: int = Field(ge=1)
    epsilon: float | Infinite = Field(
        description="of a run that it was fixed beforehand to stop at this step"
    )
    accuracy: Share


class Metrics(Part):
    """What was measured on images that are not protected."""

    private: bool
    method: str
    model: str
    parameters: int
    judged_on: JudgedOn = Field(description="what the images are that all this was measured on")
    accuracy: Share
    evaluation_loss: float | Literal["inf", "nan"]
    images: int = Field(ge=1)
    worst_class: WorstClass
    calibration_error: float = Field(ge=0)
    class_accuracy: dict[str, Share]
    confusion: dict[str, dict[str, int]] = Field(description="true class, predicted class, images")
    reliability: list[ReliabilityBin]
    weights: str
    curve: list[Point]
    seed: int | None
    engine: str
    machine: str

    @property
    def diverged(self) -> bool:
        """Whether the training diverged, so that the accuracy means nothing."""
        return has_diverged(float(self.evaluation_loss))


def read_metrics(path: Path) -> Metrics:
    """Read a run's metrics.

    Raises:
        DpmixError: as `read_json` raises.
    """
    return read_json(path, Metrics, "metrics")


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
