"""How far two sets of images are apart, from their moments alone.

Nothing here reads an image: with released moments it is post-processing, free of privacy.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from dpmix.gap.moments import COUNT, SUM, Moments

_LEAST_IMAGES = 2
_SURE = 3.0


@dataclass(frozen=True)
class GapDistances:
    """Distances in coordinates of norm at most 1.

    Attributes:
        by_class: distance between the two means of each class that could be compared, by label.
        class_ratio: root mean square of `by_class` over that of the distances between the pool's
            own classes: at 1, a class of the pool is as far from the private class of its name as
            classes are from each other. nan where no two classes could be compared, infinite where
            the pool's classes do not differ at all.
        matched: share of the compared classes whose private mean is nearest to the pool's mean of
            the same class; 0 where none could be compared.
        frechet_ratio: Frechet distance (of Gaussians with the sets' means and covariances) over the
            pool's total variance.
    """

    by_class: dict[int, float]
    class_ratio: float
    matched: float
    frechet_ratio: float


def distances(pool: Moments, private: Moments, sigma: float) -> GapDistances:
    """Compare exact moments of the pool with moments released with noise `sigma` (0: exact).

    Squared distances are corrected for what noise and the finite number of images add to them on
    average, so that they are right for small pools and little budget, if uncertain.
    """
    spread = _class_spread(pool)
    usable = [
        label
        for label in range(len(pool.count))
        if pool.count[label] >= _LEAST_IMAGES
        and private.count[label] > max(_LEAST_IMAGES, _SURE * sigma / COUNT)
    ]
    squared = {label: _own(pool, private, label, sigma, spread) for label in usable}
    between = _between(pool, usable, spread)
    ratio = math.nan
    if len(squared) > 1:
        mean = max(0.0, sum(squared.values()) / len(squared))
        ratio = math.sqrt(mean / between) if between > 0 else math.inf
    return GapDistances(
        by_class={label: math.sqrt(max(0.0, value)) for label, value in squared.items()},
        class_ratio=ratio,
        matched=_matched(pool, private, usable),
        frechet_ratio=_frechet(pool, private),
    )


def _own(
    pool: Moments, private: Moments, label: int, sigma: float, spread: Float64[Tensor, " L"]
) -> float:
    """Squared distance between the means of class `label`, corrected."""
    ours, theirs = pool.count[label], private.count[label]
    difference = pool.total[label] / ours - private.total[label] / theirs
    noise = len(difference) * (sigma / SUM / theirs) ** 2
    sampling = spread[label] * (1 / ours + 1 / theirs)
    return float(difference.square().sum() - noise - sampling)


def _matched(pool: Moments, private: Moments, labels: list[int]) -> float:
    if not labels:
        return 0.0
    ours = pool.total[labels] / pool.count[labels, None]
    theirs = private.total[labels] / private.count[labels, None]
    nearest = torch.cdist(theirs, ours).argmin(dim=1)
    return float((nearest == torch.arange(len(labels))).double().mean())


def _between(pool: Moments, labels: list[int], spread: Float64[Tensor, " L"]) -> float:
    """Mean squared distance between the pool's own classes, corrected."""
    means = pool.total[labels] / pool.count[labels, None]
    error = spread[labels] / pool.count[labels]
    pairs = len(labels) * (len(labels) - 1)
    if not pairs:
        return 0.0
    squared = torch.cdist(means, means).square() - error[:, None] - error[None, :]
    return float((squared.sum() - squared.diag().sum()) / pairs)


def _class_spread(pool: Moments) -> Float64[Tensor, " L"]:
    """Variance within a class, summed over coordinates: one value, pooled over the classes."""
    means = pool.total / pool.count.clamp(min=1)[:, None]
    within = pool.second.trace() - (pool.count[:, None] * means.square()).sum()
    freedom = (pool.count.sum() - (pool.count > 0).sum()).clamp(min=1)
    return (within / freedom).clamp(min=0).expand(len(pool.count))


def _frechet(pool: Moments, private: Moments) -> float:
    """Dowson and Landau 1982: |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), over tr(S1)."""
    ours, theirs = _gaussian(pool), _gaussian(private)
    root = _root(ours[1])
    cross = _root(root @ theirs[1] @ root)
    apart = (ours[0] - theirs[0]).square().sum()
    value = apart + ours[1].trace() + theirs[1].trace() - 2 * cross.trace()
    return max(0.0, float(value / ours[1].trace().clamp(min=1e-12)))


def _gaussian(moments: Moments) -> tuple[Float64[Tensor, " k"], Float64[Tensor, "k k"]]:
    count = moments.count.sum().clamp(min=1)
    mean = moments.total.sum(dim=0) / count
    covariance = moments.second / count - torch.outer(mean, mean)
    # Noise can make it no covariance at all: the nearest one takes its place.
    values, vectors = torch.linalg.eigh(covariance)
    return mean, vectors @ torch.diag(values.clamp(min=0)) @ vectors.T


def _root(matrix: Float64[Tensor, "k k"]) -> Float64[Tensor, "k k"]:
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    root: Tensor = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    return root
