"""Image files that are not decoded yet: on disk, or as bytes in memory."""

from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

from jaxtyping import Int64
from torch import Tensor

from dpmix.data.pixels import UnreadableImageError
from dpmix.errors import DpmixError


@dataclass(frozen=True)
class Missing:
    """In place of an image that its data set names but does not hold, and why: it is corrupt."""

    reason: str


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """N encoded images with the name that error messages give each.

    Attributes:
        names: such as ``cats/1.png`` or ``train_jpeg[7]``.
        contents: a file's path, or its bytes.
    """

    names: tuple[str, ...]
    contents: tuple[Path | memoryview | Missing, ...]

    def __len__(self) -> int:
        return len(self.names)

    def open(self, index: int) -> BufferedReader | BytesIO:
        """Open image `index` for reading.

        Raises:
            UnreadableImageError: it is `Missing`.
            DpmixError: the file is gone or may not be read; such a file is not called corrupt.
        """
        content = self.contents[index]
        if isinstance(content, Missing):
            raise UnreadableImageError(content.reason)
        if isinstance(content, memoryview):
            return BytesIO(content)
        try:
            return content.open("rb")
        except OSError as error:
            gone = isinstance(error, FileNotFoundError)
            remedy = "put it back" if gone else "check its permissions"
            raise DpmixError(
                f"image '{self.names[index]}' cannot be read ({error.strerror}: '{content}'); "
                f"expected a readable file: {remedy}"
            ) from error

    def take(self, indices: Int64[Tensor, " B"]) -> "EncodedImages":
        """The images at `indices`, in that order."""
        at = indices.tolist()
        return EncodedImages(tuple(self.names[i] for i in at), tuple(self.contents[i] for i in at))

    def __add__(self, other: "EncodedImages") -> "EncodedImages":
        return EncodedImages(self.names + other.names, self.contents + other.contents)
