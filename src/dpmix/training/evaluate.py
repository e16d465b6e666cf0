"""Accuracy, loss and calibration on a held-out split; in full once the training is over."""

import math
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from dpmix.data.normalization import Normalization
from dpmix.data.source import ImageSource
from dpmix.data.subgroups import Subgroups
from dpmix.errors import DpmixError
from dpmix.training.answers import Answers, best_thresholds, decided
from dpmix.training.calibration import Calibration
from dpmix.training.measures import (
    AtThresholds,
    Measures,
    at_thresholds,
    measures,
)
from dpmix.training.values import confusion, rankings

BATCH = 256
# A guess among L classes has a loss of ln L, below 7 for a thousand.
LARGEST_LOSS = 100.0

Headline = Literal["accuracy", "mean AUROC"]
"""The number that stands for a whole evaluation."""


def has_diverged(loss: float) -> bool:
    """Whether a mean cross-entropy is so large, or nan, that the accuracy means nothing."""
    return not loss <= LARGEST_LOSS


@dataclass(frozen=True)
class InFull:
    """What the last evaluation measures more than those on the way.

    Attributes:
        chosen_here: whether thresholds are those of these images, which are validation images.
        thresholds: those that were chosen before; None: they are chosen where `chosen_here`.
        groups: the subgroups of the images.
    """

    chosen_here: bool = False
    thresholds: tuple[float, ...] | None = None
    groups: Subgroups | None = None


@dataclass(frozen=True)
class GroupMeasures:
    """Measures by the value of one column of a list; `not_listed` images are in none."""

    not_listed: int
    groups: dict[str, Measures]


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a split, whose images have one class or several labels each.

    Attributes:
        measure: what `score` is, the number that stands for the whole.
        score: accuracy, or the mean AUROC of the labels that have both kinds of images.
        class_scores: the same within each class, or of each of these labels, by name.
        accuracy: share of images classified correctly; None for several labels.
        class_images: number of images of each class, or with each label.
        loss: mean cross-entropy, over the known labels where there are several.
        images: number of images.
        calibration_error: mean gap of confidence and accuracy, see `Calibration`.
        confusion: true class -> predicted class -> number of images, if there are any.
        reliability: number of answers, mean confidence and accuracy of each bin that has answers.
        measures: measures with intervals, of the last evaluation alone.
        decisions: what decisions at chosen thresholds are worth, if there are any.
        subgroups: column -> measures by its values, of the last evaluation alone.
    """

    measure: Headline
    score: float
    class_scores: dict[str, float]
    accuracy: float | None
    class_images: dict[str, int]
    loss: float
    images: int
    calibration_error: float
    confusion: dict[str, dict[str, int]]
    reliability: list[dict[str, int | float]]
    measures: Measures | None = None
    decisions: AtThresholds | None = None
    subgroups: dict[str, GroupMeasures] = field(default_factory=dict)

    @property
    def worst_class(self) -> tuple[str, float]:
        """Name and score of the class or label with the lowest score."""
        return min(self.class_scores.items(), key=lambda item: item[1])

    @property
    def class_accuracy(self) -> dict[str, float]:
        """Accuracy within each class, by class name; empty for several labels."""
        return {} if self.accuracy is None else self.class_scores

    @property
    def diverged(self) -> bool:
        """Whether training diverged, by the loss."""
        return has_diverged(self.loss)


def evaluate(
    model: nn.Module,
    source: ImageSource,
    normalization: Normalization,
    device: torch.device,
    in_full: InFull | None = None,
) -> Evaluation:
    """Classify every image of `source` once, without augmentation, in eval mode."""
    return evaluate_logits(logits(model, source, normalization, device), source, in_full)


def evaluate_features(
    head: nn.Module,
    features: Float[Tensor, "N D"],
    source: ImageSource,
    device: torch.device,
    in_full: InFull | None = None,
) -> Evaluation:
    """Classify the images of `source` by a head on their features, which were embedded before."""
    with _evaluating(head):
        scores = [head(part.to(device).float()).cpu() for part in features.split(BATCH)]
    return evaluate_logits(torch.cat(scores), source, in_full)


def evaluate_logits(
    scores: Float[Tensor, "N L"], source: ImageSource, in_full: InFull | None = None
) -> Evaluation:
    """Compare the logits of every image of `source` with its class or its labels.

    Raises:
        DpmixError: of several labels, none is known to be present and absent.
    """
    answers = Answers.of(scores, source)
    calibration, images = Calibration.of(answers), (answers.targets == 1).sum(0).tolist()
    counts = {} if answers.several else confusion(answers, decided(answers, None))
    right = [counts[name].get(name, 0) for name in counts]
    accuracy = None if answers.several else sum(right) / len(source)
    by_class = _label_auroc(answers) if answers.several else {}
    for name, hits, count in zip(counts, right, images, strict=False):  # of one class each
        by_class[name] = hits / max(count, 1)
    return Evaluation(
        measure="mean AUROC" if accuracy is None else "accuracy",
        score=statistics.mean(by_class.values()) if accuracy is None else accuracy,
        class_scores=by_class,
        accuracy=accuracy,
        class_images=dict(zip(source.class_names, images, strict=True)),
        loss=_loss(scores, source.labels),
        images=len(source),
        calibration_error=calibration.error(),
        confusion=counts,
        reliability=calibration.bins(),
        measures=None if in_full is None else measures(answers),
        decisions=None if in_full is None else _decisions(answers, in_full),
        subgroups={} if in_full is None else _by_group(answers, in_full.groups),
    )


def _label_auroc(answers: Answers) -> dict[str, float]:
    found = zip(answers.names, rankings(answers, "auroc")["auroc"].tolist(), strict=True)
    by_label = {name: value for name, value in found if not math.isnan(value)}
    if not by_label:
        raise DpmixError(
            f"none of the labels {', '.join(answers.names)} is both present and absent in the "
            "images to evaluate on; expected one at least: add images"
        )
    return by_label


def _loss(scores: Float[Tensor, "N L"], labels: Int64[Tensor, "N *L"]) -> float:
    if labels.ndim == 1:
        return float(nn.functional.cross_entropy(scores, labels))
    known = labels >= 0
    return float(
        nn.functional.binary_cross_entropy_with_logits(scores[known], labels[known].float())
    )


def _decisions(answers: Answers, in_full: InFull) -> AtThresholds | None:
    """Decisions at the thresholds, which are chosen here where they may be."""
    thresholds = [*(in_full.thresholds or ())]
    if not thresholds and in_full.chosen_here and answers.has_threshold:
        thresholds = best_thresholds(answers)
    if not thresholds:
        return None
    return at_thresholds(answers, thresholds, chosen_here=in_full.chosen_here)


def _by_group(answers: Answers, groups: Subgroups | None) -> dict[str, GroupMeasures]:
    if groups is None:
        return {}
    return {
        column: GroupMeasures(
            groups.not_listed,
            {name: measures(answers.part(rows)) for name, rows in groups.rows(column).items()},
        )
        for column in groups.columns
    }


def logits(
    model: nn.Module, source: ImageSource, normalization: Normalization, device: torch.device
) -> Float[Tensor, "N L"]:
    """The logits of `source` in order, on the CPU; the model's modes are put back."""
    with _evaluating(model):
        batches = (source.images(index) for index in torch.arange(len(source)).split(BATCH))
        return torch.cat([model(normalization(x.to(device))).float().cpu() for x in batches])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the model's modes are put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
