"""How far confidence is from correctness, over 15 bins (Guo et al. 2017, arXiv 1706.04599).

Of one class for each image, confidence is the probability of the predicted class, and an answer is
correct if that is its class. Of several labels every known label is an answer: its probability
stands against whether it is present.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dpmix.training.answers import Answers

BINS = 15


@dataclass(frozen=True, eq=False)
class Calibration:
    """M answers, their bins, and the images that they are about."""

    confidence: Float[Tensor, " M"]
    correct: Int64[Tensor, " M"]
    place: Int64[Tensor, " M"]
    image: Int64[Tensor, " M"]

    @classmethod
    def of(cls, answers: Answers) -> "Calibration":
        """The answers in bins of confidence."""
        if answers.several:
            image, label = (answers.targets >= 0).nonzero().unbind(1)
            confidence = answers.probabilities[image, label]
            correct = answers.targets[image, label]
        else:
            confidence, predicted = answers.probabilities.max(dim=1)
            correct = (predicted == answers.labels).long()
            image = torch.arange(len(correct))
        # The bins of torchmetrics, whose last one holds a confidence of 1 alone.
        place = torch.bucketize(confidence, torch.linspace(0, 1, BINS + 1), right=True)
        return cls(confidence, correct, place, image)

    def error(self) -> float:
        """The mean gap of confidence and correctness of the bins, weighted by their answers."""
        from torchmetrics.functional.classification import binary_calibration_error

        return float(binary_calibration_error(self.confidence, self.correct, n_bins=BINS))

    def bins(self) -> list[dict[str, int | float]]:
        """Number of answers, mean confidence and share correct of each bin that has answers."""
        return [
            {
                "images": int(inside.sum()),
                "confidence": float(self.confidence[inside].double().mean()),
                "accuracy": float(self.correct[inside].double().mean()),
            }
            for inside in (self.place == one for one in self.place.unique())
        ]

    def resampled(self, weight: Float[Tensor, "R N"]) -> Float[Tensor, " R"]:
        """The error where image i occurs weight[r, i] times."""
        sums = torch.zeros(2, weight.shape[1], BINS + 2)
        gap = self.confidence - self.correct
        for one, value in zip(sums, (gap, torch.ones_like(gap)), strict=True):
            one.index_put_((self.image, self.place), value, accumulate=True)
        gaps, answers = (weight @ one for one in sums)
        error: Tensor = gaps.abs().sum(1) / answers.sum(1)
        return error
