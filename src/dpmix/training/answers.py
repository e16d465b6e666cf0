"""A model's answers about a split: probabilities, decisions at a threshold, and thresholds.

An image has one class, or several labels that are each present (1), absent (0) or unknown (-1).

Guarantee: a threshold is a function of the answers that it is chosen on, and those are of images
that no privacy guarantee covers: of validation images, never of test or training images
(`tests/training/test_evaluate.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from dpmix.data.source import ImageSource, known_persons

HALF = 0.5


@dataclass(frozen=True, eq=False)
class Answers:
    """What a model answers about N images of C classes or labels, and what is true.

    Attributes:
        probabilities: of each class, which sum to one, or of each label.
        labels: the class of every image, or 1, 0 or -1 for every label.
        names: of the classes or labels.
        owner: the person of every image, where that is known.
    """

    probabilities: Float[Tensor, "N C"]
    labels: Int64[Tensor, " N"] | Int64[Tensor, "N C"]
    names: tuple[str, ...]
    owner: Int64[Tensor, " N"] | None

    @classmethod
    def of(cls, scores: Float[Tensor, "N C"], source: ImageSource) -> "Answers":
        """The answers that logits give; the NaNs of a model that diverged are no preference."""
        labels, persons = source.labels, known_persons(source)
        sure = probabilities(scores, several=labels.ndim == 2)
        guess = HALF if labels.ndim == 2 else 1 / scores.shape[1]
        owner = None if persons is None else persons.owner
        return cls(sure.nan_to_num(guess), labels, source.class_names, owner)

    @property
    def several(self) -> bool:
        """Whether an image can have several labels."""
        return self.labels.ndim == 2

    @cached_property
    def targets(self) -> Int64[Tensor, "N C"]:
        """Whether each image has each class or label: 1, 0, or -1 where that is unknown."""
        if self.several:
            return self.labels
        return torch.nn.functional.one_hot(self.labels, len(self.names))

    @property
    def ranked(self) -> tuple[int, ...]:
        """The places that ranking measures are a mean over: of two classes, the second alone."""
        return (1,) if self.has_threshold and not self.several else tuple(range(len(self.names)))

    @property
    def has_threshold(self) -> bool:
        """Whether a threshold decides: of two classes or of several labels."""
        return self.several or len(self.names) == 2

    def column(self, place: int) -> tuple[Float[Tensor, " M"], Int64[Tensor, " M"]]:
        """Probability and truth of the class or label at `place`, where the truth is known."""
        known = self.targets[:, place] >= 0
        return self.probabilities[known, place], self.targets[known, place]

    def part(self, rows: Int64[Tensor, " M"]) -> "Answers":
        """The answers about the images at `rows`."""
        owner = None if self.owner is None else self.owner[rows].unique(return_inverse=True)[1]
        return Answers(self.probabilities[rows], self.labels[rows], self.names, owner)


def probabilities(scores: Float[Tensor, "N C"], *, several: bool) -> Float[Tensor, "N C"]:
    """The probability of each of several labels, or of each class."""
    return scores.sigmoid() if several else scores.softmax(dim=1)


def decided(answers: Answers, thresholds: Sequence[float] | None) -> Bool[Tensor, "N C"]:
    """The class or the labels that each image is given; without thresholds as `decide` says."""
    if thresholds is None and answers.several:
        thresholds = [HALF] * len(answers.names)
    return decide(answers.probabilities, thresholds)


def decide(
    probabilities: Float[Tensor, "N C"], thresholds: Sequence[float] | None
) -> Bool[Tensor, "N C"]:
    """The class or the labels that each image is given.

    Args:
        probabilities: of each class or label.
        thresholds: one decides for the second of two classes; as many as there are labels decide
            for each label; None takes the most probable class.
    """
    if thresholds is not None and len(thresholds) == probabilities.shape[1]:
        return probabilities >= torch.tensor(thresholds, device=probabilities.device)
    chosen = probabilities.argmax(dim=1)
    if thresholds is not None:
        chosen = (probabilities[:, 1] >= thresholds[0]).long()
    return torch.nn.functional.one_hot(chosen, probabilities.shape[1]).bool()


def best_thresholds(answers: Answers) -> list[float]:
    """The thresholds of the largest sensitivity + specificity (Youden 1950) on these images.

    Each lies in the middle between two probabilities that occur, so that no rounding moves an
    image across it. It is 0.5 where no threshold is better than to give one answer to all images.
    """
    return [_youden(*answers.column(place)) for place in answers.ranked]


def _youden(score: Float[Tensor, " M"], truth: Int64[Tensor, " M"]) -> float:
    from torchmetrics.functional.classification import binary_roc

    if len(truth.unique()) < 2:
        return HALF
    false, true, at = binary_roc(score, truth)
    gain = true - false
    best = int(gain.argmax())
    if gain[best] <= 0:
        return HALF
    below = score[score < at[best]]
    return float((at[best].double() + (below.max().double() if len(below) else 0.0)) / 2)
