"""The random choices behind a batch of views, apart from the pixels they are applied to.

Row g of every tensor belongs to group g alone, and rows are independent. Removing an example
removes a row and leaves the other rows' draws as they were: under this coupling the sensitivity is
proven and tested.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from dpmix.views.extra_augment import DRAWS_PER_VIEW
from dpmix.views.spec import ViewSpec

# Enough values for their remainder by a pool's size to be uniform to within one in 10^9.
PUBLIC_BITS = 1 << 62


@dataclass(frozen=True)
class ViewDraws:
    """Draws for G groups: A augmentations (one a view), D public draws, M mixtures, E units."""

    top: Int64[Tensor, "G A"]  # row of the crop in the padded image
    left: Int64[Tensor, "G A"]  # column of the crop in the padded image
    flip: Bool[Tensor, "G A"]  # whether the view is mirrored
    # raw bits. The images they pick may depend on a label, which draws never do
    public: Int64[Tensor, "G D"]
    first: Int64[Tensor, "G M"]  # pool entry that has the weight
    second: Int64[Tensor, "G M"]  # pool entry that has the rest
    weight: Float32[Tensor, "G M"]  # lambda of each mixture, in [0, 1]
    # U uniform numbers for the extra augmentation of each view; U is 0 without one
    extra: Float32[Tensor, "G A U"]
    # seeds that choose among each person's images; without persons E is 0
    images: Int64[Tensor, "G E"]

    def rows(self, index: Int64[Tensor, " R"] | slice) -> "ViewDraws":
        """Return the draws of the chosen groups."""
        return ViewDraws(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device) -> "ViewDraws":
        """Return the same draws on `device`."""
        return ViewDraws(*(getattr(self, field.name).to(device) for field in fields(self)))


def draw_views(spec: ViewSpec, groups: int, rng: np.random.Generator) -> ViewDraws:
    """Make the random draws of `groups` groups.

    Crop offsets are uniform in [0, 2 * crop_padding], flips fair, public draws uniform in
    [0, PUBLIC_BITS), the entries of a mixture a uniformly random ordered pair of distinct ones, and
    its weight Beta(alpha, alpha). Extra draws, uniform in [0, 1), and those of persons' images,
    uniform in [0, PUBLIC_BITS), come last: the others stay.
    """
    augmented = (groups, spec.unmixed_views)
    plain = spec.method == "none"
    offsets = 1 if plain else 2 * spec.crop_padding + 1
    flip = rng.random(augmented) < 0.5 if spec.flip and not plain else np.zeros(augmented, bool)
    extra = DRAWS_PER_VIEW if spec.extra_augment != "none" else 0
    persons = spec.examples_per_group if spec.unit == "person" else 0
    mixed = (groups, spec.mixed_views)
    first = rng.integers(0, spec.pool_size, mixed)
    # Uniform over the entries other than `first`: a shift by 1 .. P-1 around the ring.
    shift = rng.integers(1, max(spec.pool_size, 2), mixed)
    weight = rng.beta(spec.mixup_alpha, spec.mixup_alpha, mixed) if spec.mixes else np.ones(mixed)
    return ViewDraws(
        top=torch.from_numpy(rng.integers(0, offsets, augmented)),
        left=torch.from_numpy(rng.integers(0, offsets, augmented)),
        flip=torch.from_numpy(flip),
        public=torch.from_numpy(rng.integers(0, PUBLIC_BITS, (groups, spec.public_views))),
        first=torch.from_numpy(first),
        second=torch.from_numpy((first + shift) % spec.pool_size),
        weight=torch.from_numpy(weight.astype(np.float32)),
        extra=torch.from_numpy(rng.random((*augmented, extra), dtype=np.float32)),
        images=torch.from_numpy(rng.integers(0, PUBLIC_BITS, (groups, persons))),
    )
