"""Whether to use a pool, from its distances and from what noise alone would have shown.

The bounds are choices, not theorems. They were set on CIFAR-10 (JPEG copy) against pools of known
worth (`docs/public-pool.md` has the figures): other photos of the same classes lie well under them,
wrong labels, other subjects and other kinds of picture above.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dpmix.gap.distance import GapDistances

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
