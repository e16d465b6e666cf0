"""The examples of one process, where several train together: a stretch of a whole source."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.source import ImageSource


@dataclass(frozen=True, eq=False)
class Shard:
    """Examples `start` to `stop` - 1 of `whole`, numbered from 0.

    Images are fetched from `whole` when they are asked for, so that one which reads from the disk
    never reads another process's.
    """

    whole: ImageSource
    start: int
    stop: int

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in label order."""
        return self.whole.class_names

    @property
    def labels(self) -> Int64[Tensor, " N"]:
        """The class of every image of the shard."""
        return self.whole.labels[self.start : self.stop]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.whole.image_shape

    def __len__(self) -> int:
        return self.stop - self.start

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """The images at `indices` of the shard."""
        return self.whole.images(torch.as_tensor(indices) + self.start)
