"""The public pool that `mix-diff` draws from.

Its images are taken as public: nothing private may have been read to make or choose them.
"""

from dataclasses import dataclass

from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.public.class_map import UNLABELLED


@dataclass(frozen=True, eq=False)
class PublicPool:
    """P public images.

    Attributes:
        images: in memory or mapped from a file.
        labels: the private data set's classes, or `UNLABELLED` for a uniform soft label.

    Raises:
        DpmixError: no images, as many labels as images are not given, or a label below
            `UNLABELLED`.
    """

    images: UInt8[Tensor, "P C H W"]
    labels: Int64[Tensor, " P"]

    def __post_init__(self) -> None:
        if not len(self.images) or len(self.images) != len(self.labels):
            raise DpmixError(
                f"the public pool holds {len(self.images)} images and {len(self.labels)} labels; "
                "expected as many labels as images, and at least one"
            )
        if int(self.labels.min()) < UNLABELLED:
            raise DpmixError(
                f"the public pool has label {int(self.labels.min())}; expected a class from 0, or "
                f"{UNLABELLED} for images without one"
            )

    def __len__(self) -> int:
        return len(self.images)

    def take(
        self, index: Int64[Tensor, "*shape"]
    ) -> tuple[UInt8[Tensor, "*shape C H W"], Int64[Tensor, "*shape"]]:
        """The images and classes at `index`, on its device."""
        at = index.to(self.images.device)
        return self.images[at].to(index.device), self.labels[at].to(index.device)
