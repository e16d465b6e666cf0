"""One encoded image to uint8 pixels, or the reason why not.

A DICOM file is known by its first bytes; Pillow opens all others. An image is judged by its header
before a pixel is decoded. How it is turned and fitted follows from its own tag and size, never from
another image. Of several frames the first is read; colour profiles are ignored. An array is fitted
exactly as the same picture in a lossless file.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from threading import Lock, Semaphore
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from dpmix.data.deep import deep_window, in_grey, is_inverted
from dpmix.data.dicom import DicomHeader, is_dicom
from dpmix.data.window import Window
from dpmix.errors import DpmixError

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 2**26
"""8192 x 8192; a larger claim is taken for a decompression bomb."""
MAX_BYTES_IN_FLIGHT = 512 * 2**20
_TOO_LARGE = "its pixels are over the bound"
_SLOT_COUNT = 16
_SLOTS, _TAKING = Semaphore(_SLOT_COUNT), Lock()
# Decoded, turned, converted and composited copies may exist together.
_BYTES_PER_PIXEL, _BYTES_PER_DEEP_PIXEL = 20, 32
Progress = Callable[[int, int], None]
"""Called with (images done, images in all) during a long decode."""

_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}


class UnreadableImageError(DpmixError):
    """The image is corrupt, truncated, of another format or too large; the message says which."""


@contextmanager
def hold_memory(size: int) -> Iterator[None]:
    """Wait until `size` bytes are free of `MAX_BYTES_IN_FLIGHT`; more than that works alone."""
    slots = min(_SLOT_COUNT, 1 + size // (MAX_BYTES_IN_FLIGHT // _SLOT_COUNT))
    with _TAKING:  # one thread at a time: two that hold a part would wait for each other
        for _ in range(slots):
            _SLOTS.acquire()
    try:
        yield
    finally:
        _SLOTS.release(slots)


@dataclass(frozen=True)
class ReadOptions:
    """How the images of a data set are read.

    Raises:
        DpmixError: a number out of range.
    """

    # S or (H, W) in pixels, see `in_form`; None: as stored
    image_size: int | tuple[int, int] | None = None
    # 1 (grey) or 3 (RGB), to which colours are converted; None: as stored
    channels: int | None = None
    skip_corrupt: bool = False  # leave out images that cannot be decoded
    workers: int | None = None  # decoding threads; None: one per core, 16 at most
    progress: Progress | None = None  # called during a long decode
    # makes grey values of more than 8 bits 8-bit; `dicom`: each DICOM file's own
    window: Window | Literal["dicom"] | None = None

    def __post_init__(self) -> None:
        if self.channels not in (None, 1, 3):
            raise DpmixError(f"channels is {self.channels}; expected 1 (grey) or 3 (RGB)")
        for name, value in (("image_size", self.image_size), ("workers", self.workers)):
            if isinstance(value, int) and value < 1:
                raise DpmixError(f"{name} is {value}; expected 1 or more")

    def shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Return (C, H, W) that an upright image is read to."""
        size = self.image_size or (height, width)
        return (self.channels or channels, *((size, size) if isinstance(size, int) else size))


def decode_pixels(
    stream: BufferedReader | BytesIO, name: str, options: ReadOptions
) -> UInt8[np.ndarray, "C H W"]:
    """Decode the image `name`: turned upright, its colours converted, then fitted (`in_form`).

    Raises:
        UnreadableImageError: the image is corrupt, no image, or too large.
        DpmixError: more than 8 bits a channel without a window, colours that need `channels`, or a
            DICOM file of another kind than `DicomHeader.read` takes.
    """
    if is_dicom(stream):
        return _decode_dicom(stream, name, options)
    with _unreadable():
        image = Image.open(stream, formats=FORMATS)
    with image:
        _check_size(image.width, image.height)
        window = deep_window(image, name, options.window)
        channels = options.channels or (plain_channels(image) if window is None else 1)
        if channels is None:
            transparent = " with transparency" if image.has_transparency_data else ""
            raise DpmixError(
                f"image '{name}' is {image.mode}{transparent}; expected plain grey or RGB: "
                "give --channels 3 (or 1) to convert every image"
            )
        size = _BYTES_PER_PIXEL if window is None else _BYTES_PER_DEEP_PIXEL
        with hold_memory(image.width * image.height * size), _unreadable():
            turned = upright(image)
            if window is not None:
                turned = in_grey(turned, window, is_inverted(image))
            return in_form(turned, options.shape(channels, turned.height, turned.width))


def _decode_dicom(
    stream: BufferedReader | BytesIO, name: str, options: ReadOptions
) -> UInt8[np.ndarray, "C H W"]:
    with _unreadable():
        header = DicomHeader.read(stream, name)
    _check_size(header.width, header.height)
    with hold_memory(header.width * header.height * _BYTES_PER_DEEP_PIXEL), _unreadable():
        image = header.picture(stream, options.window)
        channels = 1 if image.mode == "L" else 3
        return in_form(image, options.shape(channels, image.height, image.width))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnreadableImageError(f"{_TOO_LARGE} of {MAX_PIXELS:,}")


@contextmanager
def _unreadable() -> Iterator[None]:
    try:
        yield
    except (MemoryError, UserWarning, DpmixError):
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{_TOO_LARGE} of {MAX_PIXELS:,}") from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image of a known format") from error
    # Malformed files make Pillow's plugins raise nearly anything: SyntaxError, struct.error, ...
    except Exception as error:
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def plain_channels(image: Image.Image) -> int | None:
    """Return 1 for grey, 3 for RGB or an opaque palette, None for anything else (alpha, CMYK)."""
    return None if image.has_transparency_data else _CHANNELS.get(image.mode)


def upright(image: Image.Image) -> Image.Image:
    """Decode `image` and turn it as its orientation tag says, if that can be read."""
    # Before the tag is read: TIFF's decoder turns by itself and drops the tag, and in a PNG it may
    # stand after the pixels.
    image.load()
    if _has_more_frames(image):
        # The text is the same for all images, so that Python shows it once.
        text = "an image holds more than one frame, and the first is read: save each as a file"
        warnings.warn(text, stacklevel=2)
    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    # A damaged block of tags makes Pillow raise nearly anything.
    except Exception:
        return image


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    # Looking for the second frame may meet damage after the first, which is whole.
    except Exception:
        return False


def in_form(image: Image.Image, shape: tuple[int, int, int]) -> UInt8[np.ndarray, "C H W"]:
    """Convert the colours of an upright image, then fit it to (C, H, W).

    Transparent pixels are laid on white. Another size is resized (bicubic). Proportions that differ
    from those of (H, W) by a tenth at most are cut to the centre; else all of it is fitted inside,
    and its border pixels are repeated (docs/defaults.md says why).
    """
    channels, height, width = shape
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    mode = "L" if channels == 1 else "RGB"
    image = image if image.mode == mode else image.convert(mode)
    one, other = image.width * height, image.height * width
    if image.size == (width, height):
        pixels = np.asarray(image)
    elif 10 * max(one, other) > 11 * min(one, other):
        pixels = _padded(image, height, width)
    else:
        # It resizes the largest centred box: resizing all of a 1 x 60,000,000 image first would
        # itself be a bomb.
        pixels = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _padded(image: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "H W *C"]:
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    inside = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    before = ((height - size[1]) // 2, (width - size[0]) // 2)
    after = (height - size[1] - before[0], width - size[0] - before[1])
    padding = [*zip(before, after, strict=True), (0, 0)][: inside.ndim]
    return np.pad(inside, padding, mode="edge")


def fit_images(
    images: UInt8[Tensor, "N C H W"], options: ReadOptions
) -> UInt8[Tensor, "N C2 H2 W2"]:
    """Apply `channels` and `image_size` of `options` to every image, as `in_form` does."""
    channels = images.shape[1]
    form = options.shape(*images.shape[1:])
    if form == images.shape[1:]:
        return images
    fitted = np.empty((len(images), *form), dtype=np.uint8)
    for row, image in enumerate(images.numpy()):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
        fitted[row] = in_form(picture, form)
    return torch.from_numpy(fitted)
