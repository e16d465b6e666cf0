"""How measures vary over other images of the same kind: a bootstrap of whole persons, or of images.

Guarantee: a person's images enter a resample together, so that more images of the same people make
no interval narrower (`tests/training/test_measures.py`). The draws are those of a fixed public seed
and never of the images: the same answers give the same intervals.

Everything is a function of weights: how often each image occurs in each resample.
"""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.functional import pad

SPECIFICITY = 0.9
RANKINGS = ("auroc", "average_precision", "sensitivity_at_90_specificity")
MOST, FEWEST = 1000, 100  # resamples
# Answers in all resamples together, which bound the time: about a second for 50 million.
_BUDGET = 50_000_000
_SEED, _PART = 0, 100
_ROUNDING = 1 - 1e-6


def resample_count(images: int, classes: int) -> int:
    """How many resamples a bootstrap of these numbers of images and classes has."""
    return max(FEWEST, min(MOST, _BUDGET // (images * classes)))


def weights(units: Int64[Tensor, " N"], count: int) -> Iterator[Float[Tensor, "R N"]]:
    """How often each image is in each of `count` resamples of the units, in parts.

    Args:
        units: the unit of every image, 0..U-1; every unit has an image.
        count: number of resamples.
    """
    rng, number = np.random.default_rng(_SEED), int(units.max()) + 1
    for start in range(0, count, _PART):
        rows = min(_PART, count - start)
        drawn = rng.integers(0, number, (rows, number)) + number * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * number).reshape(rows, number)
        yield torch.from_numpy(counts.astype(np.float32)).index_select(1, units)


def ranking(
    weight: Float[Tensor, "R N"], score: Float[Tensor, " N"], positive: Bool[Tensor, " N"]
) -> dict[str, Float[Tensor, " R"]]:
    """AUROC, average precision and sensitivity at 90 % specificity; nan without both kinds.

    Images of equal scores pass a threshold together. All three need the weights that have passed
    only where a positive image passes, which saves most of the time where there are many classes.
    """
    if not positive.any():
        return dict.fromkeys(RANKINGS, torch.full((len(weight),), torch.nan))
    order = score.argsort(descending=True, stable=True)
    ranked, place = score[order], positive[order].nonzero().flatten()
    first = torch.cat([torch.ones(1).bool(), ranked[1:] != ranked[:-1]])
    starts = first.nonzero().flatten()
    ends = torch.cat([starts[1:], torch.tensor([len(ranked)])])
    groups, sizes = (first.cumsum(0) - 1)[place].unique_consecutive(return_counts=True)
    weight = weight.index_select(1, order)
    passed = weight.cumsum(1)
    taken, found = passed[:, ends[groups] - 1], weight[:, place].cumsum(1)[:, sizes.cumsum(0) - 1]
    gained = found - pad(found[:, :-1], (1, 0))
    earlier = passed[:, (starts[groups] - 1).clamp(min=0)] * (starts[groups] > 0)
    false, false_before = taken - found, earlier - (found - gained)
    positives = found[:, -1]
    negatives = passed[:, -1] - positives
    both = torch.where(positives * negatives > 0, 1.0, torch.nan)
    below = negatives[:, None] - (false + false_before) / 2
    allowed = false * _ROUNDING <= (1 - SPECIFICITY) * negatives[:, None]
    return dict(zip(RANKINGS, (
        both * (gained * below).sum(1) / (positives * negatives),
        both * (gained * found / taken.clamp(min=1)).sum(1) / positives,
        both * (found * allowed).amax(1) / positives,
    ), strict=True))  # fmt: skip


def hits(
    weight: Float[Tensor, "R N"], decisions: Bool[Tensor, "N C"], targets: Int64[Tensor, "N C"]
) -> dict[str, Float[Tensor, "R *C"]]:
    """Accuracy, balanced accuracy, macro F1, and `recall` by class; nan of a class without images.

    The means are over the classes that the resample has images of.
    """
    true, given = targets.float(), decisions.float()
    there, named, right = weight @ true, weight @ given, weight @ (true * given)
    missing = torch.where(there > 0, 1.0, torch.nan)
    recall = missing * right / there
    return {
        "accuracy": right.sum(1) / there.sum(1),
        "balanced_accuracy": recall.nanmean(1),
        "macro_f1": (missing * 2 * right / (there + named)).nanmean(1),
        "recall": recall,
    }
