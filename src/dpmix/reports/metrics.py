"""`metrics.json`: what was measured on images that are not protected."""

import platform
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from dpmix.data.splits import JudgedOn
from dpmix.files import to_json
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.statement import Infinite, Part, Settings, Share, parse_json, read_file
from dpmix.training.evaluate import GroupMeasures, Headline, has_diverged
from dpmix.training.loop import History
from dpmix.training.measures import AtThresholds, Measures


class WorstClass(Part):
    """The class or label with the lowest score."""

    name: str
    score: Share


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
    score: Share


class Metrics(Part):
    """What was measured on images that are not protected."""

    private: bool
    method: str
    model: str
    parameters: int
    judged_on: JudgedOn = Field(description="the images that all this was measured on")
    measure: Headline = Field(description="what the scores are")
    score: Share
    worst_class: WorstClass
    class_scores: dict[str, Share]
    accuracy: Share | None = Field(description="null where an image can have several labels")
    evaluation_loss: float | Literal["inf", "nan"]
    images: int = Field(ge=1)
    class_images: dict[str, int] = Field(description="images of each class, or with each label")
    calibration_error: float = Field(ge=0)
    confusion: dict[str, dict[str, int]] = Field(description="true class, predicted class, images")
    reliability: list[ReliabilityBin]
    measures: Measures | None = Field(description="with 95 % intervals; null before the last step")
    decisions: AtThresholds | None = Field(description="at thresholds that validation images chose")
    subgroups: dict[str, GroupMeasures] = Field(description="column of the list, value, measures")
    weights: str
    curve: list[Point] = Field(description="the first point is before any private image")
    seed: int | None
    engine: str
    machine: str

    @property
    def start_score(self) -> float:
        """Score before the first private step, at epsilon 0."""
        return self.curve[0].score

    @property
    def diverged(self) -> bool:
        """Whether the training diverged, so that the score means nothing."""
        return has_diverged(float(self.evaluation_loss))


def read_metrics(path: Path) -> Metrics:
    """Read the metrics of a run."""
    return parse_json(read_file(path), Metrics, path, "metrics")


def metrics(
    settings: Settings, plan: PrivacyPlan, history: History, parameters: int, engine: str
) -> Metrics:
    """The latest evaluation of the averaged weights, and their scores over the run."""
    last = history.last
    assert last is not None
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if plan.expected_runs is not None:
        # Machine and engine could tell which of a private selection's runs this is.
        engine = machine = "not stated for a run of a private selection"
    worst, worst_score = last.worst_class
    measured = asdict(last)
    values = measured | {
        "private": plan.private,
        "method": settings["views"]["method"],
        "model": settings["model"]["model"] or settings["model"]["backbone"],
        "parameters": parameters,
        "judged_on": "test" if settings["data"]["validation_fraction"] is None else "validation",
        "evaluation_loss": measured.pop("loss"),
        "worst_class": {"name": worst, "score": worst_score},
        "weights": "exponential moving average, last",
        "curve": history.points,
        "seed": settings["run"]["seed"],
        "engine": engine,
        "machine": machine,
    }
    # JSON has infinite numbers as text, and so has the model.
    return Metrics.model_validate_json(to_json(values))
