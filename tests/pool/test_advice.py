"""The verdicts, at and around their bounds."""

import math

import pytest

from dpmix.pool.score import GapDistances, NoiseFloor, advise

QUIET = NoiseFloor(class_ratio=0.0, matched=1.0, frechet_ratio=0.0)


def found(ratio=0.2, matched=1.0, frechet=0.1):
    return GapDistances({0: ratio, 1: ratio}, ratio, matched, frechet)


@pytest.mark.parametrize(
    ("case", "verdict"),
    [
        (found(), "use"),
        (found(ratio=0.49), "use"),
        (found(ratio=0.5), "use with care"),
        (found(ratio=0.99), "use with care"),
        (found(ratio=1.0), "leave out"),
        (found(ratio=30.0), "leave out"),
        (found(ratio=math.inf), "leave out"),
        (found(matched=0.6), "use"),
        (found(matched=0.55), "use with care"),
        (found(matched=0.49), "leave out"),
        (found(frechet=0.49), "use"),
        (found(frechet=0.6), "use with care"),
        (found(ratio=math.nan, matched=0.0), "use with care"),
    ],
)
def test_verdicts_without_noise(case, verdict):
    assert advise(case, QUIET).verdict == verdict


@pytest.mark.parametrize(
    ("case", "floor", "verdict"),
    [
        # Matching is judged against what noise leaves of it.
        (found(matched=0.5), NoiseFloor(0.3, 0.7, 0.5), "use"),
        (found(matched=0.3), NoiseFloor(0.3, 0.7, 0.5), "leave out"),
        # A distance below what noise alone shows is not good news.
        (found(ratio=0.0), NoiseFloor(0.6, 0.9, 0.5), "use with care"),
        (found(ratio=1.2), NoiseFloor(1.5, 0.9, 0.5), "use with care"),
        (found(ratio=1.6), NoiseFloor(1.5, 0.9, 0.5), "leave out"),
        (found(ratio=0.1), NoiseFloor(math.inf, 0.0, 0.5), "use with care"),
        # Noise inflates the Frechet distance.
        (found(frechet=0.7), NoiseFloor(0.1, 1.0, 0.5), "use"),
    ],
)
def test_verdicts_under_noise(case, floor, verdict):
    assert advise(case, floor).verdict == verdict
