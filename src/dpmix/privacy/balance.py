"""Unequal classes: what the images of a class count, by prevalences that are public or paid for.

Class c has the weight w_c = min_j p_j / p_c: 1 for the rarest class, less for the others. A unit's
weight is the mean of its images' weights, rounded for a person of several classes. So it is a
number in (0, 1] that depends on that unit and on the prevalences p alone.

Formal guarantees.

- `weights`: a unit's clipped gradient is multiplied by its weight w. The product has a norm of at
  most w C <= C, so the sum keeps the sensitivity C (`training/weighted.py`).
- `sampling`: a unit enters a step with probability w q instead of q, independently of all others.
  Let P and Q be the laws of a release without the unit and with it for certain. The release has the
  law (1 - wq) P + wq Q = (1 - w) P + w ((1 - q) P + q Q). A divergence that is jointly convex, as
  the hockey stick of (epsilon, delta) is, lies from P, in either direction, at most w times as far
  as that of rate q. All other units have the same draws in both data sets. So the steps compose as
  at rate q, at which they are accounted (`tests/privacy/test_balance.py`).
- `release_prevalences`: a unit adds to the counts the vector of its images' shares of the classes,
  which is not negative and sums to one: its norm is at most 1. The counts are released once, with
  Gaussian noise, and whatever is made of them is post-processing.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from dpmix.privacy.noise import with_noise
from dpmix.privacy.randomness import Stream

Balance = Literal["none", "weights", "sampling"]

_MOST_UNITS = 1e7  # that the grid of the noise is made for
_PER_OCTAVE = 8  # weights of persons with images of several classes: steps of 9 %


def class_weights(prevalences: Sequence[float]) -> tuple[float, ...]:
    """The weight of each class, by its share of the training images; shares are above 0."""
    rarest = min(prevalences)
    return tuple(rarest / share for share in prevalences)


def mean_weight(prevalences: Sequence[float]) -> float:
    """The weight that a unit has on average: sum_c p_c w_c = L min_j p_j, for L classes."""
    return len(prevalences) * min(prevalences)


def unit_weights(
    shares: Float64[Tensor, "U L"], prevalences: Sequence[float]
) -> Float64[Tensor, " U"]:
    """The weight of each unit.

    Args:
        shares: the classes' shares of each unit's images; a row sums to one.
        prevalences: of the L classes.
    """
    weights = torch.tensor(class_weights(prevalences), dtype=torch.float64)
    mean = (shares @ weights).clamp(max=1.0)
    # Units of one weight are clipped together, so those of several classes have few weights.
    rounded = (mean.log2() * _PER_OCTAVE).round().div(_PER_OCTAVE).exp2()
    return torch.where(shares.amax(dim=1) < 1, rounded, mean)


def release_prevalences(
    shares: Float64[Tensor, "U L"], sigma: float, rng: Stream
) -> tuple[float, ...]:
    """Count the units of each class with noise, and return the prevalences: no longer private.

    Args:
        shares: the classes' shares of each unit's images; a row sums to one.
        sigma: standard deviation of the noise on each count, whose sensitivity is 1. A count below
            it is raised to it: a class without a unit would have no weight.
        rng: stream of the noise.
    """
    noisy = with_noise(shares.sum(dim=0), sigma, 1.0, _MOST_UNITS, rng).clamp(min=sigma)
    return tuple((noisy / noisy.sum()).tolist())
