"""The gap check: features, one private release, and what follows from it.

Guarantee: of the private images nothing leaves but the released moments, one Gaussian mechanism of
noise multiplier sigma (`gap/moments.py`); all numbers of a `GapFinding` are computed from them and
from public data. Private images are embedded one at a time: in a batch, the neighbours of an image
can move the last bits of its features, and over many images that would add up beyond the
sensitivity.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError
from dpmix.gap.advice import NEAR, Advice, NoiseFloor, advise
from dpmix.gap.distance import GapDistances, distances
from dpmix.gap.moments import Moments
from dpmix.gap.projection import PublicProjection
from dpmix.models.backbone import Backbone
from dpmix.privacy.accounting import epsilon_gaussian
from dpmix.privacy.secure_stream import SecureStream, Stream
from dpmix.public.class_map import UNLABELLED
from dpmix.public.pool import PublicPool

TWINS = 40
_BATCH = 128
_LEAST_POOL = 20
_LEAST_SIGMA = 0.1


@dataclass(frozen=True)
class GapFinding:
    """What a gap check found; with a finite sigma all of it is covered by the release.

    Attributes:
        found: the distances.
        floor: what noise alone would show.
        advice: the verdict.
        pool_images: how many images of the pool were compared: those with a class.
    """

    found: GapDistances
    floor: NoiseFloor
    advice: Advice
    pool_images: int


def check_gap(
    pool: PublicPool,
    private: ImageSource,
    backbone: Backbone,
    *,
    sigma: float,
    device: torch.device,
    rng: Stream | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> GapFinding:
    """Compare `pool` with the images of `private` in the backbone's feature space.

    Args:
        pool: public; unlabelled images are left out.
        private: the training images, whose classes the pool's labels index.
        backbone: frozen, public.
        sigma: noise multiplier of the one release; 0 only where `private` is public too.
        device: where the backbone is.
        rng: of the noise; None: fresh from the operating system.
        report: told (images embedded, images in all).

    Raises:
        DpmixError: fewer than 20 labelled images in the pool, a pool without differences between
            its classes, or a sigma that would drown any answer: all said before a private image is
            read, from their number alone, which is public.
    """
    labelled = (pool.labels != UNLABELLED).nonzero().flatten()
    if len(labelled) < _LEAST_POOL:
        raise DpmixError(
            f"the public pool has {len(labelled)} labelled images; a gap check needs "
            f"{_LEAST_POOL} or more"
        )
    classes, total = len(private.class_names), len(labelled) + len(private)

    def public(index: Tensor) -> Tensor:
        return pool.take(labelled[index])[0]

    ours = _embedded(public, len(labelled), _BATCH, backbone, device, lambda n: report(n, total))
    side = _PublicSide.of(ours, pool.labels[labelled], classes)
    if sigma:
        _refuse_idle_spending(side.moments, len(private), sigma)
    theirs = _embedded(
        private.images,
        len(private),
        1,
        backbone,
        device,
        lambda n: report(len(labelled) + n, total),
    )
    return side.compared(theirs, private.labels, sigma, rng or SecureStream())


def compare_features(
    pool: tuple[Float[Tensor, "P D"], Int64[Tensor, " P"]],
    private: tuple[Float[Tensor, "N D"], Int64[Tensor, " N"]],
    classes: int,
    sigma: float,
    rng: Stream,
) -> GapFinding:
    """The check from features and labels on; arguments as in `check_gap`."""
    return _PublicSide.of(*pool, classes).compared(*private, sigma, rng)


@dataclass(frozen=True, eq=False)
class _PublicSide:
    """The pool's half of a check: the projection made from it, and its exact moments."""

    project: PublicProjection
    moments: Moments
    images: int

    @classmethod
    def of(
        cls, features: Float[Tensor, "P D"], labels: Int64[Tensor, " P"], classes: int
    ) -> "_PublicSide":
        project = PublicProjection.of(features)
        return cls(project, Moments.of(project(features), labels, classes), len(features))

    def compared(
        self,
        features: Float[Tensor, "N D"],
        labels: Int64[Tensor, " N"],
        sigma: float,
        rng: Stream,
    ) -> GapFinding:
        """Release the moments of the other half, and judge."""
        classes, _ = self.moments.size
        exact = Moments.of(self.project(features), labels, classes)
        released = exact.released(sigma, rng) if sigma else exact
        found = distances(self.moments, released, sigma)
        floor = _noise_floor(self.moments, released, sigma)
        return GapFinding(found, floor, advise(found, floor), self.images)


def _refuse_idle_spending(ours: Moments, count: int, sigma: float) -> None:
    """Refuse to spend where the pool alone answers, or its own twin could not be told near."""
    classes, _ = ours.size
    expected = ours.scaled(torch.full((classes,), count / classes, dtype=torch.float64))
    if not math.isfinite(distances(ours, expected, 0.0).class_ratio):
        raise DpmixError(
            "the pool's own classes can't be told from each other in these features, so that "
            "nothing need be spent: leave the pool out, or try another --backbone"
        )
    if _noise_floor(ours, expected, sigma).class_ratio < NEAR:
        return
    enough = sigma
    while _noise_floor(ours, expected, enough).class_ratio >= NEAR and enough > _LEAST_SIGMA:
        enough /= 2
    raise DpmixError(
        f"there are too few images for noise of {sigma:.3g}, which would drown any answer; "
        f"nothing was spent: give a larger --spend, so that the noise is about {enough:.2g} (an "
        f"epsilon of {epsilon_gaussian(enough, 1e-6):.2g} at delta 1e-6)"
    )


def _embedded(
    images: Callable[[Tensor], Tensor],
    count: int,
    batch: int,
    backbone: Backbone,
    device: torch.device,
    report: Callable[[int], None],
) -> Float[Tensor, "N D"]:
    parts = []
    for index in torch.arange(count).split(batch):
        parts.append(backbone.features(images(index).to(device)).float().cpu())
        report(int(index[-1]) + 1)
    return torch.cat(parts)


def _noise_floor(pool: Moments, released: Moments, sigma: float) -> NoiseFloor:
    """Simulate releases of a twin of the pool with as many images as the private data seem to have.

    Public data and the release only, so any generator will do.
    """
    twin = pool.scaled(released.count.clamp(min=0))
    rng = np.random.default_rng(0)
    drawn = [
        distances(pool, twin.released(sigma, rng), sigma) for _ in range(TWINS if sigma else 1)
    ]
    ratios = [one.class_ratio for one in drawn if not math.isnan(one.class_ratio)]
    return NoiseFloor(
        class_ratio=float(np.quantile(ratios, 0.95, method="higher")) if ratios else math.inf,
        matched=float(np.mean([one.matched for one in drawn])),
        frechet_ratio=float(np.mean([one.frechet_ratio for one in drawn])),
    )
