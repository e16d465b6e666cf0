"""Examples -> views: the builder of every method.

An example is a unit of privacy: an image, or a person with all their images.

Guarantee: the views of group g are a function of group g's private image(s), its own draws and
public data. Nothing else in the batch is read (`tests/properties/test_isolation.py`).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dpmix.data.normalization import Normalization
from dpmix.data.source import ImageSource, persons_of, task_of
from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.pool import PublicPool
from dpmix.views.augment import check_padding, self_augment
from dpmix.views.draws import ViewDraws, draw_views
from dpmix.views.extra_augment import extra_augment
from dpmix.views.labels import soft_labels, soft_labels_of_pool
from dpmix.views.mixup import mixup
from dpmix.views.persons import person_images
from dpmix.views.spec import ViewSpec


@dataclass(frozen=True)
class ViewSet:
    """G groups of K views with their soft labels; each group gives one clipped gradient."""

    views: Float[Tensor, "G K *view"]
    labels: Float[Tensor, "G K L"]


@runtime_checkable
class ViewSource(Protocol):
    """Makes the views of examples: from pixels (`ViewBuilder`), or from embedded features.

    Group g of `sample` must be a function of group g's private example(s), draws and public data
    alone: `spec.sensitivity_multiplier` rests on that.
    """

    @property
    def spec(self) -> ViewSpec:
        """The kinds and numbers of views."""

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The shape of one view of images [C, H, W]."""

    def check_data(self, data: ImageSource) -> None:
        """Refuse, before a run begins, data that views cannot be made from."""

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        """Return views of `examples`, on `device`, with fresh random draws from `rng`."""


@dataclass(frozen=True)
class ViewBuilder:
    """Builds the views that `spec` describes.

    Attributes:
        spec: the kinds and numbers of views.
        num_classes: L.
        normalization: public constants applied to every pixel.
        pool: the public pool; required by `mix-diff`, refused elsewhere.
    """

    spec: ViewSpec
    num_classes: int
    normalization: Normalization
    pool: PublicPool | None = None

    def __post_init__(self) -> None:
        if self.spec.method == "mix-diff" and self.pool is None:
            raise DpmixError(
                "method mix-diff needs public images; give --pool FOLDER with one folder per "
                "class, or use --method mix-self"
            )
        if self.spec.method != "mix-diff" and self.pool is not None:
            raise DpmixError(
                f"method {self.spec.method} reads no public pool; leave out --pool, use "
                "--method mix-diff, or train on it first with --pool-role pretrain"
            )
        if self.pool is None:
            return
        pool, highest = self.pool, int(self.pool.labels.max())
        if highest >= self.num_classes:
            raise DpmixError(
                f"the public pool has label {highest}; expected classes 0..{self.num_classes - 1}"
            )
        draw = self.spec.pool_draw
        if draw == "uniform":
            return
        own = torch.bincount(pool.labels.clamp(min=0), minlength=self.num_classes)
        drawable = own if draw == "same-class" else len(pool) - own
        if int(pool.labels.min()) == UNLABELLED or int(drawable.min()) == 0:
            raise DpmixError(
                f"pool_draw {draw} needs a class of every public image, and one to draw for each "
                "class; give --pool-unmapped leave-out, add images, or use --pool-draw uniform"
            )

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The same shape."""
        return image_shape

    def check_data(self, data: ImageSource) -> None:
        """Refuse images too small for `spec.crop_padding`, or without persons or classes."""
        if self.spec.unit == "person":
            persons_of(data)
        if (
            self.pool
            and self.spec.pool_draw != "uniform"
            and task_of(data.labels) != "single-label"
        ):
            raise DpmixError(
                f"pool_draw {self.spec.pool_draw} needs one class an image, and these have several "
                "labels; use --pool-draw uniform"
            )
        if self.spec.method != "none":
            check_padding(self.spec.crop_padding, *data.image_shape[1:])

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        """Return views of `examples`, on `device`, with fresh random draws from `rng`."""
        draws = self.draw_views(len(examples) // self.spec.examples_per_group, rng)
        places, source = examples, None
        if self.spec.unit == "person":
            of = persons_of(data)
            places, source = person_images(
                [of.images(p) for p in examples.tolist()], draws, self.spec
            )
        images = data.images(places).to(device, non_blocking=True)
        labels = data.labels[places].to(device, non_blocking=True)
        return self.build(images, labels, draws, source)

    def draw_views(self, groups: int, rng: np.random.Generator) -> ViewDraws:
        """Make fresh random draws for `groups` view sets."""
        return draw_views(self.spec, groups, rng)

    def build(
        self,
        images: UInt8[Tensor, "B C H W"],
        labels: Int64[Tensor, "B *L"],
        draws: ViewDraws,
        source: Int64[Tensor, "G A"] | None = None,
    ) -> ViewSet:
        """Build the views of B images: G = B groups, or B / 2 pairs for `microbatch-mixup`.

        Args:
            images: private images, 0..255.
            labels: their classes in [0, L), or their L labels.
            draws: one row per group, from `draw_views`.
            source: which of the images each base view is cut from, where the unit is a person
                (`person_images`). None: an image is a unit, and the members of a pair take turns.

        Returns:
            Views on the images' device, float32, and soft labels (`views/labels.py`). The order is
            base views, public views, mixtures.
        """
        spec, draws, device = self.spec, draws.to(images.device), images.device
        if source is None:
            members = spec.examples_per_group
            turn = torch.arange(spec.base_views, device=device) % members
            source = torch.arange(len(draws.top), device=device)[:, None] * members + turn
        source = source.to(device)
        soft = soft_labels(labels, self.num_classes)[source]
        if self.pool is not None:
            # Which public images join depends on the group's draws and the class of its first
            # view alone. Of several labels none is read: the draw is uniform (`check_data`).
            first = labels[source[:, 0]] if labels.ndim == 1 else source[:, 0]
            bits, own = (part.to(self.pool.labels.device) for part in (draws.public, first))
            drawn = self.pool.draw(bits, own, spec.pool_draw).to(device)
            public, folders = self.pool.take(drawn)
            place = torch.arange(folders.numel(), device=device).view_as(folders)
            source = torch.cat([source, len(images) + place], dim=1)
            images = torch.cat([images, public.flatten(0, 1)])
            of_pool = soft_labels_of_pool(folders, self.num_classes, task_of(labels))
            soft = torch.cat([soft, of_pool], dim=1)
        padding = 0 if spec.method == "none" else spec.crop_padding
        pixels = self_augment(images, source, draws.top, draws.left, draws.flip, padding)
        kind = spec.extra_augment
        views = self.normalization(
            pixels if kind == "none" else extra_augment(pixels, draws.extra, kind)
        )
        if not spec.mixes:
            return ViewSet(views, soft)
        chosen, mixing = (draws.first, draws.second, draws.weight), slice(0, spec.pool_size)
        mixed, mixed_soft = mixup(views[:, mixing], *chosen), mixup(soft[:, mixing], *chosen)
        if spec.average == "mixed-only":
            return ViewSet(mixed, mixed_soft)
        return ViewSet(torch.cat([views, mixed], dim=1), torch.cat([soft, mixed_soft], dim=1))
