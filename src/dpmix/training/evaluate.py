"""Accuracy, loss and calibration on a held-out split."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.data.normalization import Normalization
from dpmix.data.source import ImageSource

BATCH, BINS = 256, 15
# A guess among L classes has a loss of ln L, below 7 for a thousand.
LARGEST_LOSS = 100.0


def has_diverged(loss: float) -> bool:
    """Whether a mean cross-entropy is so large, or nan, that the accuracy means nothing."""
    return not loss <= LARGEST_LOSS


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a split.

    Attributes:
        accuracy: share of images classified correctly.
        class_accuracy: accuracy within each class, by class name.
        loss: mean cross-entropy.
        images: number of images.
        calibration_error: mean gap of confidence and accuracy over 15 bins of confidence, weighted
            by their images (Guo et al. 2017, arXiv 1706.04599).
        confusion: true class -> predicted class -> number of images, if there are any.
        reliability: number of images, mean confidence and accuracy of each bin that has images.
    """

    accuracy: float
    class_accuracy: dict[str, float]
    loss: float
    images: int
    calibration_error: float
    confusion: dict[str, dict[str, int]]
    reliability: list[dict[str, int | float]]

    @property
    def worst_class(self) -> tuple[str, float]:
        """Name and accuracy of the class with the lowest accuracy."""
        return min(self.class_accuracy.items(), key=lambda item: item[1])

    @property
    def diverged(self) -> bool:
        """Whether training diverged, by the loss."""
        return has_diverged(self.loss)


def evaluate(
    model: nn.Module, source: ImageSource, normalization: Normalization, device: torch.device
) -> Evaluation:
    """Classify every image of `source` once, without augmentation, in eval mode."""
    return evaluate_logits(logits(model, source, normalization, device), source)


def evaluate_features(
    head: nn.Module, features: Float[Tensor, "N D"], source: ImageSource, device: torch.device
) -> Evaluation:
    """Classify the images of `source` by a head on their features, which were embedded before."""
    with _evaluating(head):
        scores = [head(part.to(device).float()).cpu() for part in features.split(BATCH)]
    return evaluate_logits(torch.cat(scores), source)


def evaluate_logits(scores: Float[Tensor, "N L"], source: ImageSource) -> Evaluation:
    """Compare the logits of every image of `source` with its labels."""
    # torchmetrics takes a second to load, and `--help` should not wait for it.
    from torchmetrics.functional.classification import (
        multiclass_calibration_error,
        multiclass_confusion_matrix,
    )

    names, labels = source.class_names, source.labels
    # The logits of a model that diverged are NaN: then all classes are equally likely.
    sure = scores.softmax(dim=1).nan_to_num(1 / len(names))
    counts = multiclass_confusion_matrix(scores, labels, num_classes=len(names))
    confidence, predicted = sure.max(dim=1)
    hits = (predicted == labels).double()
    # The bins of torchmetrics, whose last one holds a confidence of 1 alone.
    place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1), right=True)
    right, total = counts.diag().double(), counts.sum(dim=1).double()
    return Evaluation(
        accuracy=float(right.sum() / total.sum()),
        class_accuracy=dict(zip(names, (right / total.clamp(min=1)).tolist(), strict=True)),
        loss=float(nn.functional.cross_entropy(scores, labels)),
        images=len(source),
        calibration_error=float(multiclass_calibration_error(sure, labels, len(names), BINS)),
        confusion={
            name: {names[other]: int(row[other]) for other in row.nonzero().flatten().tolist()}
            for name, row in zip(names, counts, strict=True)
        },
        reliability=[
            {
                "images": int(inside.sum()),
                "confidence": float(confidence[inside].double().mean()),
                "accuracy": float(hits[inside].mean()),
            }
            for inside in (place == one for one in place.unique())
        ],
    )


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
