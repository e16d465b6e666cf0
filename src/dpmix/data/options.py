"""How images are to be read: the user's choices, checked once."""

from collections.abc import Callable
from dataclasses import dataclass

from dpmix.data.pixels import READING, Reading
from dpmix.errors import DpmixError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all) during a long decode."""


@dataclass(frozen=True)
class ReadOptions:
    """Choices that hold for every image of a data set.

    Attributes:
        image_size: S: every image is fitted to S x S pixels as `in_form` says; None: as stored.
        channels: 1 (grey) or 3 (RGB): every image is converted; None: as stored.
        skip_corrupt: leave out images that cannot be decoded instead of refusing the data set.
        workers: decoding threads; None: one per core, 16 at most.
        progress: told how far a long decode is.
        reading: the rule by which a picture becomes pixels, see `READING`.

    Raises:
        DpmixError: a value out of range.
    """

    image_size: int | None = None
    channels: int | None = None
    skip_corrupt: bool = False
    workers: int | None = None
    progress: Progress | None = None
    reading: Reading = READING

    def __post_init__(self) -> None:
        if self.image_size is not None and self.image_size < 1:
            raise DpmixError(f"image size is {self.image_size}; expected 1 or more pixels")
        if self.channels not in (None, 1, 3):
            raise DpmixError(f"channels is {self.channels}; expected 1 (grey) or 3 (RGB)")
        if self.workers is not None and self.workers < 1:
            raise DpmixError(f"workers is {self.workers}; expected 1 or more")
