"""The source for image sets that do not fit in memory: decoded whenever they are asked for."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64, UInt8
from torch import Tensor

from dpmix.data.decode_pool import EncodedImages, decode_batch
from dpmix.data.image import PixelForm
from dpmix.data.source import check_labels


@dataclass(frozen=True, eq=False)
class EncodedSource:
    """Images that stay encoded; the pixels are those that `TensorSource` would hold.

    Attributes:
        encoded: the N images, each decoded without error once before.
        labels: int64 [N] in 0..L-1.
        class_names: the L names.
        form: what every image is decoded to.
        digests: uint8 [N, 32], the sha256 of every image's pixels in that form.
        workers: decoding threads; None: one per core.

    Raises:
        DpmixError: as `check_labels` raises.
    """

    # Not in the repr: file names and labels do not belong in a log or a traceback.
    encoded: EncodedImages = field(repr=False)
    labels: Int64[Tensor, " N"] = field(repr=False)
    class_names: tuple[str, ...]
    form: PixelForm
    digests: UInt8[np.ndarray, "N 32"] = field(repr=False)
    workers: int | None = None

    def __post_init__(self) -> None:
        check_labels(self.labels, len(self.encoded), self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.form.shape

    def __len__(self) -> int:
        return len(self.encoded)

    def images(self, indices: Int64[Tensor, " B"]) -> UInt8[Tensor, "B C H W"]:
        """Decode the images at `indices`; memory beyond the result is bounded by the pool.

        Raises:
            DpmixError: a file changed or vanished since it was checked.
        """
        return decode_batch(self.encoded, indices.tolist(), self.form, self.workers)
