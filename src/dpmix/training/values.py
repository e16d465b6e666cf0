"""The values of measures, each computed by torchmetrics, which takes a second to load.

Guarantee: an unknown label is left out of the measures of that label alone.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dpmix.training.answers import Answers
from dpmix.training.resamples import RANKINGS, SPECIFICITY


def rankings(answers: Answers, *only: str) -> dict[str, Float[Tensor, " C"]]:
    """The measures in `RANKINGS`, or `only` some, of each class; nan without both kinds."""
    from torchmetrics.functional import classification as of

    measure: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "auroc": of.binary_auroc,
        "average_precision": of.binary_average_precision,
        "sensitivity_at_90_specificity": lambda score, truth: of.binary_sensitivity_at_specificity(
            score, truth, min_specificity=SPECIFICITY
        )[0],
    }
    found = torch.full((len(only or RANKINGS), len(answers.names)), torch.nan)
    for place in range(len(answers.names)):
        score, truth = answers.column(place)
        if 0 < truth.sum() < len(truth):
            for row, name in zip(found, only or RANKINGS, strict=True):
                row[place] = measure[name](score, truth)
    # An area is a sum in float32, which can pass 1 by a last digit.
    return dict(zip(only or RANKINGS, found.clamp(0, 1), strict=True))


def decision_values(
    answers: Answers, decisions: Bool[Tensor, "N C"]
) -> dict[str, Float[Tensor, "*C"]]:
    """Accuracy, balanced accuracy, macro F1 and recall by class, or the share of labels right.

    Means are over the classes that have images; the recall of the others is nan.
    """
    from torchmetrics.functional import classification as of

    if answers.several:
        known = answers.targets >= 0
        return {"labels_right": of.binary_accuracy(decisions[known].long(), answers.targets[known])}
    predicted, labels, classes = decisions.int().argmax(1), answers.labels, len(answers.names)
    there = answers.targets.sum(0) > 0
    recall = of.multiclass_recall(predicted, labels, classes, average="none")
    f1 = of.multiclass_f1_score(predicted, labels, classes, average="none")
    return {
        "accuracy": of.multiclass_accuracy(predicted, labels, classes, average="micro"),
        "balanced_accuracy": recall[there].mean(),
        "macro_f1": f1[there].mean(),
        "recall": recall.where(there, torch.nan),
    }


def confusion(answers: Answers, decisions: Bool[Tensor, "N C"]) -> dict[str, dict[str, int]]:
    """True class -> decided class -> number of images, if there are any."""
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    names, predicted = answers.names, decisions.int().argmax(1)
    counts = multiclass_confusion_matrix(predicted, answers.labels, num_classes=len(names))
    return {
        name: {names[other]: int(row[other]) for other in row.nonzero().flatten().tolist()}
        for name, row in zip(names, counts, strict=True)
    }
