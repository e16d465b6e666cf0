"""Canaries that are images: what somebody sees who is given the trained model alone.

Each is added to the training images by a fair coin; a model that was trained on it has a lower loss
on it. One training answers for all of them: Steinke, Nasr, Jagielski 2023 (arXiv 2305.08846).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor, nn

from dpmix.audit.bounds import best_one_run_epsilon
from dpmix.data.source import ImageSource, TensorSource
from dpmix.errors import DpmixError

ImageKind = Literal["mislabelled", "pattern"]
_CELLS = 4


@dataclass(frozen=True, eq=False)
class WithCanaries:
    """An `ImageSource` of `base` and, after it, of `added`."""

    base: ImageSource
    added: TensorSource

    @property
    def class_names(self) -> tuple[str, ...]:
        """As those of `base`."""
        return self.base.class_names

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """Of both."""
        return torch.cat([self.base.labels, self.added.labels])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """As that of `base`."""
        return self.base.image_shape

    def __len__(self) -> int:
        return len(self.base) + len(self.added)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """From either."""
        found = torch.empty((len(indices), *self.image_shape), dtype=torch.uint8)
        own = indices < len(self.base)
        found[own] = self.base.images(indices[own]).cpu()
        found[~own] = self.added.images(indices[~own] - len(self.base))
        return found


@dataclass(frozen=True)
class ImageAudit:
    """What an audit by images found.

    Attributes:
        kind: of the canaries.
        claimed: epsilon of the plan at `delta`.
        delta: of the plan.
        one_run: lower bound on epsilon.
        confidence: of it.
        canaries: guessed at, over all runs.
        runs: trained.
    """

    kind: ImageKind
    claimed: float
    delta: float
    one_run: float
    confidence: float
    canaries: int
    runs: int

    @property
    def lower_bound(self) -> float:
        """The one there is."""
        return self.one_run

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, at the confidence."""
        return self.lower_bound > self.claimed


def make_canaries(
    kind: ImageKind, count: int, held_out: ImageSource, rng: np.random.Generator
) -> TensorSource:
    """So many images with a label each that no training image teaches.

    Args:
        kind: held-out images with a wrong label, or coarse patterns of random colours with any.
        count: at most the held-out images, for the former.
        held_out: of the private data's shape and classes.
        rng: of all choices.

    Raises:
        DpmixError: more of them than held-out images, or a single class.
    """
    classes, names = len(held_out.class_names), held_out.class_names
    if kind == "pattern":
        channels, height, width = held_out.image_shape
        cells = torch.from_numpy(rng.random((count, channels, _CELLS, _CELLS)))
        pixels = (nn.functional.interpolate(cells, (height, width)) * 255).to(torch.uint8)
        return TensorSource(pixels, torch.from_numpy(rng.integers(0, classes, count)), names)
    if count > len(held_out) or classes < 2:
        raise DpmixError(
            f"{count:,} mislabelled canaries were asked for but there are {len(held_out):,} test "
            f"images of {classes} classes to make them of; give fewer canaries, or kind pattern"
        )
    index = torch.from_numpy(rng.permutation(len(held_out))[:count])
    shift = torch.from_numpy(rng.integers(1, classes, count))
    return TensorSource(
        held_out.images(index).cpu(), (held_out.labels[index] + shift) % classes, names
    )


def audit_images(
    train: Callable[[ImageSource], Callable[[ImageSource], Float64[np.ndarray, " M"]]],
    *,
    kind: ImageKind,
    data: ImageSource,
    held_out: ImageSource,
    claimed: float,
    delta: float,
    canaries: int,
    runs: int,
    confidence: float,
    rng: np.random.Generator,
) -> ImageAudit:
    """Train with canaries among the images, guess from the model which were in, bound epsilon.

    Args:
        train: trains on what it is given, and returns a function from images to how much lower
            their loss is than it was before.
        kind: of the canaries.
        data: the private images, all of which are in.
        held_out: as in `make_canaries`.
        claimed: epsilon of a run.
        delta: of a run.
        canaries: M of a run.
        runs: of the whole training.
        confidence: of the bound.
        rng: of the canaries and of the coins that include them.

    Raises:
        DpmixError: as `make_canaries` raises.
    """
    scores: list[Float64[np.ndarray, " M"]] = []
    coins: list[Bool[np.ndarray, " M"]] = []
    for _ in range(runs):
        made = make_canaries(kind, canaries, held_out, rng)
        included = rng.random(canaries) < 0.5
        some = torch.from_numpy(np.flatnonzero(included))
        added = replace(made, pixels=made.pixels[some], labels=made.labels[some])
        gained = train(WithCanaries(data, added))
        scores.append(gained(made))
        coins.append(included)
    found = best_one_run_epsilon(np.concatenate(scores), np.concatenate(coins), delta, confidence)
    return ImageAudit(kind, claimed, delta, found, confidence, canaries * runs, runs)
