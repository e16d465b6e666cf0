"""What a private step asks of whatever makes the views of an example."""

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.source import ImageSource
from dpmix.views.spec import ViewSpec
from dpmix.views.view_set import ViewSet


@runtime_checkable
class ViewSource(Protocol):
    """Makes the views of examples: fresh from pixels (`ViewBuilder`), or embedded before.

    Whoever implements it guarantees that group g of `of` is a function of group g's private
    example(s), coins and public data alone: that is what `spec.sensitivity_multiplier` rests on.
    """

    @property
    def spec(self) -> ViewSpec:
        """Which views."""

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The shape of one view of images [C, H, W]."""

    def check_data(self, data: ImageSource) -> None:
        """Refuse data that views can't be made of, before a run begins.

        Raises:
            DpmixError: images too small for the views, or data that these views are not of.
        """

    def of(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        """The views of `examples`, on `device`, with fresh coins from `rng`."""
