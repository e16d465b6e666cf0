"""Many encoded images to pixels: worker threads, in order, with bounded memory.

Guarantees: results come in the order asked for; at any time the workers hold at most
`MAX_BYTES_IN_FLIGHT` of pixels being decoded (one image larger than that is decoded alone) and as
much of decoded results that nobody has taken yet.
"""

import os
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from dpmix.data.image import MemoryBudget, PixelForm, UnreadableImageError, decode_pixels
from dpmix.data.upright import Remarks
from dpmix.errors import DpmixError

# Image files that are not decoded yet: on disk, or as bytes in memory.


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


# What is said of images that can't be decoded, in training and in prediction.


_REASONS_SHOWN = 10


_NAMES_SHOWN = 50


def corrupt_error(reasons: Mapping[str, str]) -> DpmixError:
    """The error for images that can't be decoded.

    Args:
        reasons: the name of each and why not; ten reasons and fifty names are shown.
    """
    return DpmixError(f"{counted(reasons)}; repair them, or leave them out with --skip-corrupt")


def nothing_left(reasons: Mapping[str, str]) -> DpmixError:
    """The error for images of which none can be decoded, where such are left out."""
    return DpmixError(f"{counted(reasons)}, and no other is there; expected an image to read")


def counted(reasons: Mapping[str, str]) -> str:
    """How many images can't be decoded, and which."""
    # Without how many there are in all: N can be private.
    named = ", ".join(
        f"'{name}'" + (f" ({reason})" if place < _REASONS_SHOWN else "")
        for place, (name, reason) in enumerate(reasons.items())
        if place < _NAMES_SHOWN
    )
    more = f" and {len(reasons) - _NAMES_SHOWN} more" if len(reasons) > _NAMES_SHOWN else ""
    return f"{len(reasons)} image(s) cannot be decoded: {named}{more}"


MAX_BYTES_IN_FLIGHT = 512 * 2**20


_MAX_WORKERS = 16


# Small images are handed over in groups: a task of its own costs as much as decoding one.
_MAX_GROUP = 64


Decoded = UInt8[np.ndarray, "C H W"] | UnreadableImageError


def decode_in_order(
    images: EncodedImages,
    indices: Sequence[int],
    form: PixelForm,
    workers: int | None,
    remarks: Remarks | None = None,
    *,
    refused_too: bool = False,
) -> Iterator[list[Decoded]]:
    """Yield the pixels of `images` at `indices` in groups, in order; corrupt ones as their error.

    Pillow releases Python's lock while it decodes, so threads use all cores. To be iterated at
    once: Pillow's warning about decompression bombs counts as an error until it ends.

    Args:
        images: encoded.
        indices: which of them.
        form: what each is decoded to.
        workers: threads; None: one per core, 16 at most.
        remarks: is added to.
        refused_too: yield images that are refused for another reason as their error as well.

    Raises:
        DpmixError: as `decode_pixels` and `EncodedImages.open` raise, for the first such image,
            unless `refused_too`.
    """
    workers = workers or min(os.cpu_count() or 1, _MAX_WORKERS)
    results = max(1, MAX_BYTES_IN_FLIGHT // int(np.prod(form.shape)))
    window = min(2 * workers, results)
    group = min(_MAX_GROUP, results // window)
    budget = MemoryBudget(MAX_BYTES_IN_FLIGHT)

    def work(part: Sequence[int]) -> list[Decoded]:
        return [_decode(images, index, form, budget, remarks, refused_too) for index in part]

    pending: deque[Future[list[Decoded]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.filterwarnings("ignore", "(possibly )?corrupt EXIF data")  # see `Remarks`
            for start in range(0, len(indices), group):
                if len(pending) == window:
                    yield pending.popleft().result()
                pending.append(pool.submit(work, indices[start : start + group]))
            while pending:
                yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def decode_batch(
    images: EncodedImages, indices: Sequence[int], form: PixelForm, workers: int | None
) -> UInt8[Tensor, "B C H W"]:
    """Decode all of `images` at `indices` into one tensor.

    Raises:
        DpmixError: one that cannot be decoded, and as `decode_in_order` raises.
    """
    pixels = np.empty((len(indices), *form.shape), dtype=np.uint8)
    row = 0
    for group in decode_in_order(images, indices, form, workers):
        for decoded in group:
            if isinstance(decoded, UnreadableImageError):
                raise DpmixError(
                    f"image '{images.names[indices[row]]}' cannot be decoded ({decoded}); "
                    "expected an intact image file: repair it or leave it out"
                ) from decoded
            pixels[row] = decoded
            row += 1
    return torch.from_numpy(pixels)


def _decode(
    images: EncodedImages,
    index: int,
    form: PixelForm,
    budget: MemoryBudget,
    remarks: Remarks | None,
    refused_too: bool,
) -> Decoded:
    try:
        with images.open(index) as stream:
            return decode_pixels(stream, images.names[index], form, budget, remarks)
    except UnreadableImageError as error:
        return error
    except DpmixError as error:
        if refused_too:
            return UnreadableImageError(str(error))
        raise
