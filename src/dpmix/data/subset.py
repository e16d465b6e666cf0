"""Some examples of a source: a process's own stretch, one side of a split, fewer than there are."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.source import ImageSource


@dataclass(frozen=True, eq=False)
class Subset:
    """The examples of `whole` at `indices`, numbered from 0.

    Images are fetched from `whole` when they are asked for, so that a source which reads from the
    disk never reads what is left out.

    Attributes:
        whole: no subset itself: `Subset.of` sees to that.
        indices: into `whole`, on the CPU.
        class_names: one name per class that occurs, in label order.
    """

    whole: ImageSource
    indices: Int64[Tensor, " N"] = field(repr=False)
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, source: ImageSource, indices: Int64[Tensor, " N"]) -> "Subset":
        """The examples of `source` at `indices`, with all its classes."""
        if isinstance(source, Subset):
            return cls(source.whole, source.indices[indices], source.class_names)
        return cls(source, indices, source.class_names)

    @cached_property
    def labels(self) -> Int64[Tensor, " N"]:
        """The class of every image, on the CPU."""
        return self.whole.labels[self.indices]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.whole.image_shape

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """The images at `indices` of the subset."""
        return self.whole.images(self.indices[torch.as_tensor(indices)])
