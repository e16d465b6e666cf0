"""The measures that clinicians read, each with its 95 % interval.

Guarantee: an unknown label is left out of the measures of that label. A class or label that lacks
images with it, or images without it, is left out of means and counted. Values are those of
torchmetrics; intervals are percentiles of a bootstrap of persons, or of images where persons are
not known, moved so that their mean is the value. A share of independent images has the interval of
Clopper and Pearson (1934) instead, which is no point where all are right.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from scipy.stats import binomtest
from torch import Tensor

from dpmix.training import resamples
from dpmix.training.answers import Answers, decided
from dpmix.training.calibration import Calibration
from dpmix.training.resamples import RANKINGS
from dpmix.training.values import confusion, decision_values, rankings

RANKING = dict(
    zip(
        RANKINGS,
        ("AUROC", "average precision", "sensitivity at 90 % specificity"),
        strict=True,
    )
)
"""Measures of a class or label against the rest, and what people call them."""

_SHARES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "labels_right": "known labels right",
    "calibration_error": "calibration error",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
}

# Of a measure: its value, or its values by class; with a first dimension where it is resampled.
_Values = dict[str, Tensor]


@dataclass(frozen=True)
class Estimate:
    """A measure and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Measures:
    """Measures on some images.

    Attributes:
        images: number of images.
        units: what a resample draws.
        unit_count: how many of those there are.
        resamples: how many were drawn.
        left_out: number of classes or labels that are in no mean.
        overall: by the names in `RANKING` and others; one that is not defined is not there.
        by_class: the same of each class or label.
    """

    images: int
    units: Literal["images", "persons"]
    unit_count: int
    resamples: int
    left_out: int
    overall: dict[str, Estimate]
    by_class: dict[str, dict[str, Estimate]]


@dataclass(frozen=True)
class AtThresholds:
    """What decisions at chosen thresholds are worth.

    Attributes:
        thresholds: one, on the probability of the second class, or one for each label.
        chosen_here: whether they were chosen on these same images.
        overall: measures at the thresholds.
        confusion: true class -> decided class -> number of images; empty for several labels.
    """

    thresholds: list[float]
    chosen_here: bool
    overall: dict[str, Estimate]
    confusion: dict[str, dict[str, int]]


def shown_name(measure: str, *, mean: bool) -> str:
    """What people call a measure, which can be a mean over classes or labels."""
    if measure in RANKING:
        return f"mean {RANKING[measure]}" if mean else RANKING[measure]
    return _SHARES[measure]


def share_interval(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share of independent images, by Clopper and Pearson (1934)."""
    found = binomtest(right, images).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def measures(answers: Answers) -> Measures:
    """Measure everything, with intervals: to be done once, after training."""
    decisions, calibration = decided(answers, None), Calibration.of(answers)
    value: _Values = rankings(answers) | decision_values(answers, decisions)
    value["calibration_error"] = torch.tensor(calibration.error())

    def resampled(weight: Float[Tensor, "R N"]) -> _Values:
        found = _resampled_rankings(answers, weight)
        found |= _resampled_decisions(answers, decisions, weight)
        return found | {"calibration_error": calibration.resampled(weight)}

    spread, ranked = _spread(answers, resampled), [*answers.ranked]
    by_class = {
        name: _estimates(
            {one: value[one][place] for one in value if value[one].ndim},
            {one: spread[one][:, place] for one in value if value[one].ndim},
        )
        for place, name in enumerate(answers.names)
    }
    for name in RANKING:
        value[name] = value[name][ranked].nanmean()
        spread[name] = spread[name][:, ranked].nanmean(1)
    overall = _estimates(value, spread)
    if answers.owner is None and not answers.several:
        overall["accuracy"] = _exact(overall["accuracy"], len(answers.labels))
        for place, found in enumerate(by_class.values()):
            if "recall" in found:
                found["recall"] = _exact(found["recall"], int(answers.targets[:, place].sum()))
    return Measures(
        images=len(answers.labels),
        units="images" if answers.owner is None else "persons",
        unit_count=int(_units(answers).max()) + 1,
        resamples=resamples.resample_count(*answers.probabilities.shape),
        left_out=sum("auroc" not in by_class[answers.names[place]] for place in ranked),
        overall=overall,
        by_class=by_class,
    )


def at_thresholds(answers: Answers, thresholds: list[float], *, chosen_here: bool) -> AtThresholds:
    """Measure the decisions at `thresholds`, with intervals."""
    decisions = decided(answers, thresholds)
    value = decision_values(answers, decisions)
    spread = _spread(answers, lambda weight: _resampled_decisions(answers, decisions, weight))
    counts = None if answers.several else confusion(answers, decisions)
    if "recall" in value:
        for place, name in ((1, "sensitivity"), (0, "specificity")):
            value[name], spread[name] = value["recall"][place], spread["recall"][:, place]
    overall = _estimates(value, spread)
    if answers.owner is None and not answers.several:
        absent, present = answers.targets.sum(0).tolist()
        counts_of = {"accuracy": len(answers.labels), "sensitivity": present, "specificity": absent}
        for name in counts_of.keys() & overall.keys():
            overall[name] = _exact(overall[name], counts_of[name])
    return AtThresholds(thresholds, chosen_here, overall, counts or {})


def _resampled_rankings(answers: Answers, weight: Float[Tensor, "R N"]) -> _Values:
    """The same in each resample: [R, C]."""
    by_class = []
    for place in range(len(answers.names)):
        known = answers.targets[:, place] >= 0
        score, truth = answers.column(place)
        part = weight if known.all() else weight[:, known]
        by_class.append(resamples.ranking(part, score, truth == 1))
    return {name: torch.stack([one[name] for one in by_class], dim=1) for name in RANKING}


def _resampled_decisions(
    answers: Answers, decisions: Bool[Tensor, "N C"], weight: Float[Tensor, "R N"]
) -> _Values:
    """The same in each resample."""
    if not answers.several:
        return resamples.hits(weight, decisions, answers.targets)
    known = answers.targets >= 0
    right = known & (decisions == (answers.targets == 1))
    return {"labels_right": (weight @ right.sum(1).float()) / (weight @ known.sum(1).float())}


def _units(answers: Answers) -> Int64[Tensor, " N"]:
    return torch.arange(len(answers.labels)) if answers.owner is None else answers.owner


def _spread(answers: Answers, of: Callable[[Float[Tensor, "R N"]], _Values]) -> _Values:
    count = resamples.resample_count(*answers.probabilities.shape)
    parts = [of(weight) for weight in resamples.weights(_units(answers), count)]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _estimates(value: _Values, spread: _Values) -> dict[str, Estimate]:
    """Those of the single values that are defined."""
    return {
        name: _estimate(float(one), spread[name])
        for name, one in value.items()
        if one.ndim == 0 and not one.isnan()
    }


def _estimate(value: float, spread: Float[Tensor, " R"]) -> Estimate:
    """Percentiles of the resamples; without their bias the value lies between them."""
    found = spread[~spread.isnan()].double()
    edges = found.quantile(torch.tensor([0.025, 0.975]).double()) - found.mean() + value
    low, high = edges.clamp(0, 1).tolist()
    return Estimate(value, min(low, value), max(high, value))


def _exact(share: Estimate, images: int) -> Estimate:
    return Estimate(share.value, *share_interval(round(share.value * images), images))
