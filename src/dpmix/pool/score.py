"""The gap check: features, one private release, and what follows from it.

Guarantee: of the private images nothing leaves but the released moments, one Gaussian mechanism of
noise multiplier sigma (`gap/moments.py`); all numbers of a `GapFinding` are computed from them and
from public data. Private images are embedded one at a time: in a batch, the neighbours of an image
can move the last bits of its features, and over many images that would add up beyond the
sensitivity.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.load import PoolFacts
from dpmix.pool.pool import PublicPool
from dpmix.privacy.accounting import calibrate_gaussian, epsilon_gaussian
from dpmix.privacy.noise import with_noise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.prior_releases import ReleaseRecord
from dpmix.privacy.randomness import SecureStream, Stream
from dpmix.privacy.repeats import epsilon_of_copies_together

# Counts, sums and second moments of clipped features by class, and their private release.
#
# One image with coordinates z, |z| <= 1, and class y adds the vector
#
# v = (COUNT * e_y, SUM * e_y (x) z, SECOND * z z^T), COUNT^2 + SUM^2 + SECOND^2 = 1,
#
# of norm at most sqrt(COUNT^2 + SUM^2 |z|^2 + SECOND^2 |z|^4) <= 1, where z z^T is kept as its
# upper triangle with sqrt(2) off the diagonal, which has the matrix's Frobenius norm |z|^2. Adding
# or removing one image changes the vector of all sums by one v: sensitivity 1. So sum + N(0,
# sigma^2 I) is ONE Gaussian mechanism of noise multiplier sigma, whatever is computed from it
# afterwards (`tests/gap/test_moments.py`).


COUNT, SUM = 0.3, 0.8


SECOND = math.sqrt(1 - COUNT**2 - SUM**2)


_MANY = 1 << 20


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over a set of images, exact or released.

    Attributes:
        count: images of each class.
        total: sum of the coordinates by class.
        second: sum of z z^T over all classes.
    """

    count: Float64[Tensor, " L"]
    total: Float64[Tensor, "L k"]
    second: Float64[Tensor, "k k"]

    @classmethod
    def of(
        cls, coordinates: Float64[Tensor, "N k"], labels: Int64[Tensor, " N"], classes: int
    ) -> "Moments":
        """Add up images with labels in 0..classes-1; each row's norm is at most 1."""
        count = torch.bincount(labels, minlength=classes).double()
        total = torch.zeros(classes, coordinates.shape[1], dtype=torch.float64)
        return cls(count, total.index_add_(0, labels, coordinates), coordinates.T @ coordinates)

    @property
    def size(self) -> tuple[int, int]:
        """(L, k)."""
        classes, coordinates = self.total.shape
        return classes, coordinates

    def vector(self) -> Float64[Tensor, " V"]:
        """The scaled vector whose sensitivity is 1."""
        row, column = torch.triu_indices(*self.second.shape)
        triangle = self.second[row, column] * _triangle_weight(row, column)
        return torch.cat([COUNT * self.count, SUM * self.total.flatten(), SECOND * triangle])

    @classmethod
    def from_vector(cls, vector: Float64[Tensor, " V"], size: tuple[int, int]) -> "Moments":
        """The inverse of `vector`."""
        classes, k = size
        count, total, triangle = vector.split([classes, classes * k, k * (k + 1) // 2])
        row, column = torch.triu_indices(k, k)
        second = torch.zeros(k, k, dtype=torch.float64)
        second[row, column] = triangle / (SECOND * _triangle_weight(row, column))
        second[column, row] = second[row, column]
        return cls(count / COUNT, (total / SUM).reshape(classes, k), second)

    def released(self, sigma: float, rng: Stream) -> "Moments":
        """What may leave: the vector plus N(0, sigma^2 I); of public images (sigma 0), all."""
        if sigma == 0:
            return self
        (noisy,) = with_noise([self.vector()], sigma, 1.0, _MANY, rng)
        return Moments.from_vector(noisy, self.size)

    def scaled(self, count: Float64[Tensor, " L"]) -> "Moments":
        """The moments of a set of the same distribution with `count` images of each class."""
        ratio = torch.where(self.count > 0, count / self.count.clamp(min=1), 0.0)
        whole = float(count.sum() / self.count.sum().clamp(min=1))
        return Moments(self.count * ratio, self.total * ratio[:, None], self.second * whole)


def _triangle_weight(row: Tensor, column: Tensor) -> Float64[Tensor, " T"]:
    off_diagonal: Tensor = row != column
    return 1 + (math.sqrt(2) - 1) * off_diagonal.double()


# How far two sets of images are apart, from their moments alone.
#
# Nothing here reads an image: with released moments it is post-processing, free of privacy.


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


# Whether to use a pool, from its distances and from what noise alone would have shown.
#
# The bounds are choices, not theorems. They were set on CIFAR-10 (JPEG copy) against pools of
# known worth (`docs/public-pool.md` has the figures): other photos of the same classes lie well
# under them, wrong labels, other subjects and other kinds of picture above.


Verdict = Literal["use", "use with care", "leave out"]


NEAR, FAR = 0.5, 1.0


MATCHED_WELL, MATCHED_BADLY = 0.6, 0.5


FRECHET_LARGE = 0.5


@dataclass(frozen=True)
class NoiseFloor:
    """What a pool that IS the private data's twin would show under the same noise.

    Attributes:
        class_ratio: below which 95 % of such twins stay.
        matched: mean share of classes.
        frechet_ratio: mean.
    """

    class_ratio: float
    matched: float
    frechet_ratio: float


@dataclass(frozen=True)
class Advice:
    """A verdict and the reason in one sentence."""

    verdict: Verdict
    reason: str


def advise(found: GapDistances, floor: NoiseFloor) -> Advice:
    """Judge `found`; what `floor` can't resolve is never called good."""
    if math.isnan(found.class_ratio):
        return Advice(
            "use with care",
            "no two classes could be compared: too few images, or too little spent to count them",
        )
    if math.isinf(found.class_ratio):
        return Advice("leave out", "the pool's classes do not differ from each other")
    if found.matched < MATCHED_BADLY * floor.matched:
        return Advice(
            "leave out",
            f"only {found.matched:.0%} of the classes are nearest to the pool's class of their "
            "name: its labels or its pictures are of something else",
        )
    if found.class_ratio >= max(FAR, floor.class_ratio):
        return Advice(
            "leave out",
            "the pool's classes are farther from the private ones than classes are from each other",
        )
    if floor.class_ratio >= NEAR:
        return Advice(
            "use with care", "the noise is too large to tell more: spend more, or use more images"
        )
    if found.class_ratio >= NEAR:
        return Advice("use with care", "the pool's classes are near the private ones, not close")
    if found.matched < MATCHED_WELL * floor.matched:
        return Advice("use with care", "several of the pool's classes are nearer to another class")
    if found.frechet_ratio - floor.frechet_ratio >= FRECHET_LARGE:
        return Advice(
            "use with care", "the classes agree, but the images as a whole vary otherwise"
        )
    return Advice("use", "the pool's classes are close to the private ones")


# Features to a few coordinates of norm at most 1, by a rule made from the pool alone.
#
# Guarantee: the rule depends on public images only, and every image it is applied to comes out
# with Euclidean norm at most 1, whatever its features; that is what bounds one example's influence
# (`gap/moments.py`).


DIRECTIONS = 16


RADIUS_QUANTILE = 0.95


@dataclass(frozen=True, eq=False)
class PublicProjection:
    """d principal directions of the pool's features, and the length of what they leave.

    The last coordinate sees what the pool's own variation does not span: a domain that differs in
    ways in which the pool never varies.

    Attributes:
        mean: of the pool's features.
        directions: orthonormal columns.
        rest: the pool's mean length outside them.
        radius: the length that becomes 1: 95 % of the pool's images are shorter.
    """

    mean: Float64[Tensor, " D"]
    directions: Float64[Tensor, "D d"]
    rest: float
    radius: float

    @classmethod
    def of(cls, pool: Float[Tensor, "P D"]) -> "PublicProjection":
        """Fit to a pool's features."""
        features = pool.double()
        mean = features.mean(dim=0)
        centred = features - mean
        # Columns by descending eigenvalue; a small pool has fewer directions than asked for.
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
        directions = directions[:, : min(DIRECTIONS, len(features) - 1, features.shape[1])]
        rule = cls(mean, directions, 0.0, 1.0)
        rest = float(rule._coordinates(features)[:, -1].mean())
        rule = cls(mean, directions, rest, 1.0)
        lengths = rule._coordinates(features).norm(dim=1)
        radius = float(torch.quantile(lengths, RADIUS_QUANTILE))
        return cls(mean, directions, rest, max(radius, torch.finfo(torch.float32).tiny))

    def __call__(self, features: Float[Tensor, "B D"]) -> Float64[Tensor, "B k"]:
        """Coordinates, k = d + 1, scaled by `radius` and clipped to norm 1; not finite: zero."""
        scaled = self._coordinates(features.double()) / self.radius
        length = scaled.norm(dim=1, keepdim=True)
        # Nudged inwards, so that rounding can't leave a norm above 1.
        clipped = scaled / length.clamp(min=1) * (1 - 1e-12)
        return torch.where(torch.isfinite(clipped).all(dim=1, keepdim=True), clipped, 0.0)

    def _coordinates(self, features: Float64[Tensor, "B D"]) -> Float64[Tensor, "B k"]:
        centred = features - self.mean
        along = centred @ self.directions
        outside = (centred - along @ self.directions.T).norm(dim=1, keepdim=True) - self.rest
        return torch.cat([along, outside], dim=1)


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


# The gap check's report: what it found, and the record by which a run counts its cost.
#
# Guarantee: the file is in place, empty, before anything private is released, so no release is
# lost for want of space or leave to write.


@dataclass(frozen=True)
class Budget:
    """What a gap check may spend: one Gaussian release that is (epsilon, delta)-DP.

    Attributes:
        sigma: its noise multiplier.
        delta: at which epsilon is stated.
    """

    sigma: float
    delta: float

    @classmethod
    def of(cls, epsilon: float, delta: float) -> "Budget":
        """The least noise for (epsilon, delta).

        Raises:
            DpmixError: an epsilon or a delta out of range.
        """
        if not epsilon > 0:
            raise DpmixError(f"spend is {epsilon:g}; expected an epsilon above 0, such as 0.1")
        if not 0 < delta < 1:
            raise DpmixError(f"delta is {delta:g}; expected in (0, 1)")
        return cls(calibrate_gaussian(epsilon, delta), delta)

    def epsilon_of_copies(self, copies: int) -> float:
        """Epsilon of the person in `copies` equal images."""
        return epsilon_of_copies_together((), copies, self.delta, (self.sigma,))

    def record(self) -> ReleaseRecord:
        """What a later run reads."""
        return ReleaseRecord(
            what="gap check of a public pool",
            written=datetime.now(UTC).isoformat(timespec="microseconds"),
            noise_multiplier=self.sigma,
            epsilon=epsilon_gaussian(self.sigma, self.delta),
            delta=self.delta,
            neighbouring_relation=PrivacyPlan.neighbouring_relation,
        )


@contextmanager
def reserved(path: Path) -> Iterator[None]:
    """Hold `path` for the report while the check runs; a check that fails leaves no file.

    Raises:
        DpmixError: the file is there (it may be the record of another release), or can't be made.
    """
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        raise DpmixError(
            f"'{path}' is there already; a report records what was spent: give another --output"
        ) from None
    except OSError as error:
        raise DpmixError(
            f"cannot write '{path}' ({error.strerror}); nothing was spent: give another --output"
        ) from None
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def gap_report(
    finding: GapFinding,
    *,
    pool: PoolFacts,
    class_names: tuple[str, ...],
    backbone: Backbone,
    release: ReleaseRecord | None,
    repeats: tuple[int, float] | None,
) -> dict[str, Any]:
    """The report as JSON values; `release` is None between public sets.

    `repeats` is how often the most frequent private image occurs, and the epsilon of the person in
    it; None where none is repeated.
    """
    found, floor = finding.found, finding.floor
    return {
        "advice": finding.advice.verdict,
        "reason": finding.advice.reason,
        "class_ratio": found.class_ratio,
        "matched_classes": found.matched,
        "frechet_ratio": found.frechet_ratio,
        "class_distance": {class_names[label]: d for label, d in found.by_class.items()},
        "noise_alone": {
            "class_ratio": floor.class_ratio,
            "matched_classes": floor.matched,
            "frechet_ratio": floor.frechet_ratio,
        },
        "backbone": {"name": backbone.name, "provenance": backbone.provenance},
        "pool": pool.as_dict() | {"images_compared": finding.pool_images},
        "release": release and release.model_dump(),
        "repeats": repeats and {"most": repeats[0], "epsilon": repeats[1]},
    }
