"""Decoded images to another size or number of channels: each on its own, uint8 throughout.

Guarantee: an array comes out as the same picture in a lossless file would. A pool is compared with
private arrays pixel by pixel, and must not look like another image for having been a file.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from threading import Condition
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dpmix.data.upright import Remarks, upright
from dpmix.errors import DpmixError

# A bound on the memory that concurrent work holds.


class MemoryBudget:
    """Lets threads hold at most `limit` bytes together; one that asks for more works alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._freed = Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes fit, and hold them inside the block."""
        # Capped, so that a request above the limit waits for everyone else rather than for ever.
        size = min(size, self._limit)
        with self._freed:
            self._freed.wait_for(lambda: self._held + size <= self._limit)
            self._held += size
        try:
            yield
        finally:
            with self._freed:
                self._held -= size
                self._freed.notify_all()


# What is advised for images of more than 8 bits a channel.


def in_eight_bits(image: str, white: int = 4095) -> str:
    """Python that turns `image`, an array or a PIL image up to `white`, into an array of 8 bits.

    By a window that is fixed beforehand: one that is taken from the images would leak them, and
    `convert` turns all above 255 white.
    """
    return f"np.interp({image}, (0, {white}), (0, 255)).astype(np.uint8)"


# One encoded image to uint8 pixels, or the reason why not.
#
# Guarantees: an image is judged by its header before a pixel is decoded, an image of more than
# `MAX_PIXELS` is never decoded, and nothing of any other image is read: how a picture is turned
# and fitted follows from its own tag and size (`tests/data/test_upright.py`). Only formats with
# decoders in Pillow's own process are opened. Of several frames the first is read. Colour profiles
# (ICC) are ignored.


FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")


MAX_PIXELS = 2**26


"""8192 x 8192; a larger claim is taken for a decompression bomb."""


Reading = Literal[1, 2]


READING: Reading = 2


"""The rule by which a picture becomes pixels. A run records it, and is predicted on by the same.

1: orientation tags are ignored (but in TIFF), and the centre is cut out to fit.
2: every picture is turned upright, and padded where cutting would lose more than a tenth.
"""


_CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3}


# Decoded (4 bytes at most), turned, converted, and composited copies may be alive together.
_BYTES_PER_PIXEL = 20


class UnreadableImageError(Exception):
    """The image is corrupt, truncated, of another format or too large; the message says which."""


@dataclass(frozen=True)
class PixelForm:
    """The form in which every image of a data set comes out.

    Attributes:
        shape: (C, H, W).
        convert: whether other colours are converted, or refused.
        resize: whether other sizes are resized to fit, or refused.
        example: name of an image that has this form, for messages.
        reading: the rule, see `READING`.
    """

    shape: tuple[int, int, int]
    convert: bool
    resize: bool
    example: str
    reading: Reading = READING


def decode_pixels(
    stream: BufferedReader | BytesIO,
    name: str,
    form: PixelForm,
    budget: MemoryBudget,
    remarks: Remarks | None = None,
) -> UInt8[np.ndarray, "C H W"]:
    """Decode one image into `form`: upright, its colours converted, fitted (`in_form`).

    Args:
        stream: the encoded image.
        name: of the image, for messages.
        form: what it is decoded to.
        budget: of memory, which is held while it is decoded.
        remarks: is added to.

    Raises:
        UnreadableImageError: as it says.
        DpmixError: more than 8 bits a channel, or colours or a size that `form` does not admit.
    """
    channels, height, width = form.shape
    with opened(stream, name) as image:
        if not form.convert and plain_channels(image) != channels:
            raise _other_colours(image, name, form)
        with budget.hold(image.width * image.height * _BYTES_PER_PIXEL):
            turned = turned_upright(image, name, form.reading, remarks)
            if not form.resize and turned.size != (width, height):
                raise DpmixError(
                    f"image '{name}' is {turned.height}x{turned.width} and '{form.example}' is "
                    f"{height}x{width}; expected one size: give --image-size, such as "
                    "--image-size 32"
                )
            with _unreadable():
                return in_form(turned, form.shape, form.reading)


def turned_upright(
    image: Image.Image, name: str, reading: Reading = READING, remarks: Remarks | None = None
) -> Image.Image:
    """Decode an image that was `opened`, and turn it upright; by the first rule it stays as stored.

    Raises:
        UnreadableImageError: its pixels are corrupt.
    """
    with _unreadable():
        return image if reading == 1 else upright(image, name, remarks)


def in_form(
    image: Image.Image, shape: tuple[int, int, int], reading: Reading = READING
) -> UInt8[np.ndarray, "C H W"]:
    """Convert the colours of an upright image, then fit it to (C, H, W).

    Transparent pixels are laid on white. Another size is resized (bicubic): where the proportions
    differ from those of (H, W) by a tenth at most until it covers them, and cut to the centre; else
    until all of it is inside, and its border pixels are repeated (docs/defaults.md says why).
    """
    channels, height, width = shape
    converted = _converted(image, channels)
    if reading > 1 and _cuts_too_much(converted.size, (width, height)):
        pixels = _padded(converted, height, width)
    else:
        pixels = np.asarray(_cut(converted, height, width))
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def opened(stream: BufferedReader | BytesIO, name: str) -> Iterator[Image.Image]:
    """Read an image's header; the pixels are decoded only when something asks for them.

    Raises:
        UnreadableImageError: no image of a known format, or more than `MAX_PIXELS`.
        DpmixError: more than 8 bits a channel.
    """
    with _unreadable():
        image = Image.open(stream, formats=FORMATS)
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImageError(_too_large(f"{image.height}x{image.width}"))
        if _is_deep(image):
            raise DpmixError(
                f"image '{name}' has more than 8 bits a channel (mode {image.mode}); expected "
                f"8-bit: save Image.fromarray({in_eight_bits('image')}), by a fixed range"
            )
        yield image


def plain_channels(image: Image.Image) -> int | None:
    """Return 1 for grey, 3 for RGB or an opaque palette, None for anything else (alpha, CMYK)."""
    return None if image.has_transparency_data else _CHANNELS.get(image.mode)


def colour_refusal(image: Image.Image, name: str) -> DpmixError:
    """The error for an image whose colours need `--channels`."""
    transparent = " with transparency" if image.has_transparency_data else ""
    return DpmixError(
        f"image '{name}' is {image.mode}{transparent}; expected plain grey or RGB: "
        "give --channels 3 (or 1) to convert every image"
    )


def _other_colours(image: Image.Image, name: str, form: PixelForm) -> DpmixError:
    channels = plain_channels(image)
    if channels is None:
        return colour_refusal(image, name)
    kinds = {1: "grey", 3: "RGB"}
    return DpmixError(
        f"image '{name}' is {kinds[channels]} and '{form.example}' is {kinds[form.shape[0]]}; "
        "expected one kind: give --channels 3 (or 1) to convert every image"
    )


@contextmanager
def _unreadable() -> Iterator[None]:
    """Turn whatever a decoder raises into `UnreadableImageError`."""
    try:
        yield
    except MemoryError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UnreadableImageError(_too_large("more")) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError("not an image of a known format") from error
    # Malformed files make Pillow's plugins raise nearly anything: SyntaxError, struct.error, ...
    except Exception as error:
        raise UnreadableImageError(str(error) or type(error).__name__) from error


def _too_large(size: str) -> str:
    return f"{size} pixels, over the bound of {MAX_PIXELS:,}"


def _is_deep(image: Image.Image) -> bool:
    """Whether a channel has more than 8 bits, also where Pillow would silently drop the low ones.

    A 16-bit RGB file opens as mode RGB; only the raw mode (``RGB;16B``) or PPM's maximum tells.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return True
    tiles: list[Any] = getattr(image, "tile", [])
    for codec, _, _, arguments in tiles:
        values = arguments if isinstance(arguments, tuple) else (arguments,)
        if any(isinstance(value, str) and ";16" in value for value in values):
            return True
        if codec.startswith("ppm") and any(isinstance(v, int) and v > 255 for v in values):
            return True
    return False


def _converted(image: Image.Image, channels: int) -> Image.Image:
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _cuts_too_much(size: tuple[int, int], target: tuple[int, int]) -> bool:
    """Whether two (width, height) differ in their proportions by more than a tenth."""
    one, other = size[0] * target[1], size[1] * target[0]
    return 10 * max(one, other) > 11 * min(one, other)


def _cut(image: Image.Image, height: int, width: int) -> Image.Image:
    """Resize the largest centred box of the target's proportions: equals resize, then crop.

    Resizing the whole of a 1 x 60,000,000 image first would itself be a bomb.
    """
    if image.size == (width, height):
        return image
    scale = min(image.width / width, image.height / height)
    left = max(0.0, (image.width - width * scale) / 2)
    top = max(0.0, (image.height - height * scale) / 2)
    box = (left, top, image.width - left, image.height - top)
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box)


def _padded(image: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "H W *C"]:
    """Resize the whole to fit inside, then repeat its border pixels around it."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    inside = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
    rows, columns = (
        np.clip(np.arange(whole) - (whole - part) // 2, 0, part - 1)
        for whole, part in ((height, size[1]), (width, size[0]))
    )
    return inside[rows][:, columns]


# How images are to be read: the user's choices, checked once.


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


def fit_images(
    images: UInt8[Tensor, "N C H W"], options: ReadOptions
) -> UInt8[Tensor, "N C2 H2 W2"]:
    """Apply `channels`, then `image_size` where set: each image as `in_form` fits it."""
    _, channels, height, width = images.shape
    size = options.image_size
    form = (options.channels or channels, *((size, size) if size else (height, width)))
    if form == images.shape[1:]:
        return images
    fitted = np.empty((len(images), *form), dtype=np.uint8)
    for row, image in enumerate(images.numpy()):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
        fitted[row] = in_form(picture, form, options.reading)
    return torch.from_numpy(fitted)
