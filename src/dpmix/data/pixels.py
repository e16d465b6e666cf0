"""One encoded image to uint8 pixels, or the reason why not.

Guarantees: an image is judged by its header before a pixel is decoded, an image of more than
`MAX_PIXELS` is never decoded, and nothing of any other image is read: how a picture is turned and
fitted follows from its own tag and size (`tests/data/test_upright.py`). Only formats with decoders
in Pillow's own process are opened. Of several frames the first is read. Colour profiles (ICC) are
ignored.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from dpmix.data.eight_bits import in_eight_bits
from dpmix.data.memory_budget import MemoryBudget
from dpmix.data.upright import Remarks, upright
from dpmix.errors import DpmixError

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
