"""How well a public pool describes private images, as one noisy count that is paid for.

A head that was fitted to the pool alone classifies the private training images. Released are the
numbers of right and of wrong answers in each class, with Gaussian noise.

Formal guarantee: the head reads no private image, and one image's answer depends on that image
alone. So adding or removing one image changes one of the 2L counts by one: the L2 sensitivity of
the counts is 1, and the noise has standard deviation sigma (`tests/pool/test_score.py`).
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian
from dpmix.privacy.noise import with_noise
from dpmix.privacy.randomness import Stream

# The 97.5 % quantile of a normal distribution; the widest interval that still says something; a
# bound on the number of images that the grid of the noise is made for.
_QUANTILE, WIDEST, _MOST_IMAGES = 1.96, 0.2, 1e7


def count_answers(
    right: Bool[Tensor, " N"], labels: Int64[Tensor, " N"], classes: int
) -> Float64[Tensor, "L 2"]:
    """Count the right and the wrong answers in each class: private, without noise."""
    counts = torch.zeros(classes, 2, dtype=torch.float64)
    return counts.index_put_((labels, (~right).long()), torch.tensor(1.0).double(), accumulate=True)


def release_counts(counts: Float64[Tensor, "L 2"], sigma: float, rng: Stream) -> "PoolScore":
    """Add the noise; from here on nothing is private.

    Args:
        counts: of `count_answers`.
        sigma: standard deviation of the noise: of the sensitivity, which is one.
        rng: stream of the noise.
    """
    noisy = with_noise(counts, sigma, 1.0, _MOST_IMAGES, rng)
    return PoolScore(noisy, sigma)


def refuse_uninformative(images: int, classes: int, sigma: float, delta: float) -> None:
    """Refuse a release whose interval would say nothing, before anything is spent.

    Args:
        images: N, the number of private training images, which counts as public.
        classes: L.
        sigma: of the noise.
        delta: of the release.

    Raises:
        DpmixError: the interval would be wider than `WIDEST` on either side.
    """
    half = _QUANTILE * sigma * math.sqrt(classes) / images
    if half > WIDEST:
        needed = epsilon_gaussian(sigma * WIDEST / half, delta)
        least = math.ceil(100 * needed) / 100
        raise DpmixError(
            f"the accuracy of the pool would be known to ±{half:.0%} only ({images} images, "
            f"{classes} classes); expected ±{WIDEST:.0%} or better: give --spend {least:g}"
        )


@dataclass(frozen=True, eq=False)
class PoolScore:
    """Noisy counts of right and wrong answers.

    Attributes:
        counts: in each class, right and wrong.
        sigma: standard deviation of the noise on each.
    """

    counts: Float64[Tensor, "L 2"]
    sigma: float

    @property
    def accuracy(self) -> "Share":
        """How many of the private training images the pool's own head classifies correctly."""
        return self._share(self.counts.sum(dim=0), len(self.counts))

    def of_class(self, label: int) -> "Share":
        """The same, of the images of one class."""
        return self._share(self.counts[label], 1)

    def uncovered(self) -> list[int]:
        """Classes that the pool's head recognises less than half as often as the average class."""
        half = self.accuracy.value / 2
        return [label for label in range(len(self.counts)) if self.of_class(label).high < half]

    def advice(self) -> str:
        """What to do with the pool, in one sentence."""
        # A tenth of the way from guessing to being always right.
        enough = 0.1 + 0.9 / len(self.counts)
        if self.accuracy.low > enough:
            return "start from it: --head-start pool"
        if self.accuracy.high > enough:
            return "it says little about these images: compare --head-start pool and zero"
        return "leave it out: its head does no better than guessing"

    def _share(self, counts: Float64[Tensor, " 2"], cells: int) -> "Share":
        right, wrong = counts.tolist()
        images = max(right + wrong, 1.0)
        share = min(max(right / images, 0.0), 1.0)
        # The noise of both counts, to first order.
        spread = self.sigma * math.sqrt(cells * (share**2 + (1 - share) ** 2)) / images
        half = _QUANTILE * spread
        return Share(share, max(share - half, 0.0), min(share + half, 1.0))


@dataclass(frozen=True)
class Share:
    """An estimated share and its 95 % interval, which covers the noise alone.

    Attributes:
        value: the estimate.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float
