"""`metrics.json`: what was measured on images that are not protected."""

import platform
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from dpmix.data.splits import JudgedOn
from dpmix.files import to_json
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.statement import Infinite, Part, Settings, Share, parse_json, read_file
from dpmix.training.evaluate import has_diverged
from dpmix.training.loop import History


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
    """One evaluation during the run."""

    step: int = Field(ge=0)
    epsilon: float | Infinite = Field(
        description="of a run that was fixed beforehand to stop at this step"
    )
    accuracy: Share


class Metrics(Part):
    """What was measured on images that are not protected."""

    private: bool
    method: str
    model: str
    parameters: int
    judged_on: JudgedOn = Field(description="the images that all this was measured on")
    accuracy: Share
    evaluation_loss: float | Literal["inf", "nan"]
    images: int = Field(ge=1)
    worst_class: WorstClass
    calibration_error: float = Field(ge=0)
    class_accuracy: dict[str, Share]
    confusion: dict[str, dict[str, int]] = Field(description="true class, predicted class, images")
    reliability: list[ReliabilityBin]
    weights: str
    curve: list[Point] = Field(description="the first point is before any private image")
    seed: int | None
    engine: str
    machine: str

    @property
    def start_accuracy(self) -> float:
        """Accuracy before the first private step, at epsilon 0."""
        return self.curve[0].accuracy

    @property
    def diverged(self) -> bool:
        """Whether the training diverged, so that the accuracy means nothing."""
        return has_diverged(float(self.evaluation_loss))


def read_metrics(path: Path) -> Metrics:
    """Read the metrics of a run."""
    return parse_json(read_file(path), Metrics, path, "metrics")


def metrics(
    settings: Settings, plan: PrivacyPlan, history: History, parameters: int, engine: str
) -> Metrics:
    """Accuracy of the averaged weights at the latest evaluation and over the run."""
    last = history.last
    assert last is not None
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if plan.expected_runs is not None:
        # Machine and engine could tell which of a private selection's runs this is.
        engine = machine = "not stated for a run of a private selection"
    worst, worst_accuracy = last.worst_class
    values = {
        "private": plan.private,
        "method": settings["views"]["method"],
        "model": settings["model"]["model"] or settings["model"]["backbone"],
        "parameters": parameters,
        "judged_on": "test" if settings["data"]["validation_fraction"] is None else "validation",
        "accuracy": last.accuracy,
        "evaluation_loss": last.loss,
        "images": last.images,
        "worst_class": {"name": worst, "accuracy": worst_accuracy},
        "calibration_error": last.calibration_error,
        "class_accuracy": last.class_accuracy,
        "confusion": last.confusion,
        "reliability": last.reliability,
        "weights": "exponential moving average, last",
        "curve": history.points,
        "seed": settings["run"]["seed"],
        "engine": engine,
        "machine": machine,
    }
    # JSON has infinite numbers as text, and so has the model.
    return Metrics.model_validate_json(to_json(values))
