"""What `metrics.json` holds, field by field."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from dpmix.data.splits import JudgedOn
from dpmix.reporting.json_model import Infinite, Part, Share, read_json
from dpmix.training.evaluate import has_diverged


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
