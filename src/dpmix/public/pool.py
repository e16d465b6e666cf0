"""The public pool that `mix-diff` draws from.

Its images are taken as public: nothing private may have been read to make or choose them. Classes
are named as in the private data set, whose class list counts as public too.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.folder import labelled_folder
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError, nearest


@dataclass(frozen=True)
class PublicPool:
    """Labelled public images; `labels` index the private data set's classes.

    Raises:
        DpmixError: no images, or as many labels as images are not given.
    """

    images: UInt8[Tensor, "P C H W"]
    labels: Int64[Tensor, " P"]

    def __post_init__(self) -> None:
        if not len(self.images) or len(self.images) != len(self.labels):
            raise DpmixError(
                f"the public pool holds {len(self.images)} images and {len(self.labels)} labels; "
                "expected as many labels as images, and at least one"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(
        self, index: Int64[Tensor, " R"]
    ) -> tuple[UInt8[Tensor, "R C H W"], Int64[Tensor, " R"]]:
        """The images and classes at `index`, on its device."""
        at = index.to(self.images.device)
        return self.images[at].to(index.device), self.labels[at].to(index.device)

    @classmethod
    def from_source(cls, source: ImageSource, class_names: tuple[str, ...]) -> "PublicPool":
        """A pool of all images of `source`, its classes matched to `class_names` by name.

        Raises:
            DpmixError: a pool class that the private data set does not have.
        """
        for name in source.class_names:
            if name not in class_names:
                raise DpmixError(
                    f"the public pool's class '{name}' is not a class of the private data: "
                    f"{nearest(name, class_names)}; rename its folder"
                )
        position = torch.tensor([class_names.index(name) for name in source.class_names])
        return cls(source.images(torch.arange(len(source))), position[source.labels])

    @classmethod
    def from_folder(
        cls, root: Path, class_names: tuple[str, ...], image_shape: tuple[int, int, int]
    ) -> "PublicPool":
        """Read `root/<class>/*`; square private images have the pool resized to their size.

        Raises:
            DpmixError: pool images that don't have the private images' [C, H, W], and as
                `labelled_folder` and `from_source` raise.
        """
        channels, height, width = image_shape
        size = height if height == width else None
        source = labelled_folder(root, image_size=size, channels=channels)
        if source.image_shape != image_shape:
            raise DpmixError(
                f"the public pool '{root}' has images {source.image_shape} (C, H, W) but the "
                f"private ones are {image_shape}; resize the pool's images"
            )
        return cls.from_source(source, class_names)
