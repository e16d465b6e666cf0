"""Grey pictures of 16 bits, as Pillow opens them, to 8 bits by a fixed window.

A picture is known to be deep by its header, before a pixel is decoded. Of a PNG, a TIFF or a PGM
the window counts in the values that Pillow gives; a PGM's are scaled first, so that its maximum is
65535.
"""

from typing import Literal

import numpy as np
from PIL import Image

from dpmix.data.window import OWN, Window
from dpmix.errors import DpmixError

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a TIFF's tag and its value
_SAMPLE_FORMAT, _SIGNED = 339, 2


def deep_window(
    image: Image.Image, name: str, window: Window | Literal["dicom"] | None
) -> Window | None:
    """Return `window` for a deep grey `image`, and None for one of 8 bits.

    Raises:
        DpmixError: more than 8 bits a channel without a fixed window, or in other than 16-bit grey.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "L" and tags.get(_SAMPLE_FORMAT) in (_SIGNED, (_SIGNED,)):
        raise DpmixError(
            f"image '{name}' holds signed values of 8 bits, which Pillow reads as others; expected "
            "values from 0: save it with 16 bits, and give --window"
        )
    sixteen = _holds_sixteen_bits(image)
    if not (sixteen or image.mode in ("I", "F") or image.mode.startswith("I;")):
        return None
    what = f"image '{name}' has more than 8 bits a channel (mode {image.mode})"
    grey = image.mode.startswith("I;") or (image.mode == "I" and sixteen)
    if not grey or image.has_transparency_data:
        raise DpmixError(
            f"{what} and is not plain 16-bit grey; expected that, or 8 bits a channel: convert it "
            "by a range that is fixed beforehand"
        )
    if window is None or window == OWN:
        raise DpmixError(
            f"{what} and there is no fixed window for it; give dpmix train --window CENTER,WIDTH, "
            "chosen without looking at the images, such as 32768,65536 for all of 16 bits"
        )
    return window


def _holds_sixteen_bits(image: Image.Image) -> bool:
    # A 16-bit RGB file opens as mode RGB: only the raw mode (`RGB;16B`) or PPM's maximum tells.
    deep = False
    for codec, _, _, arguments in getattr(image, "tile", []):
        for value in arguments if isinstance(arguments, tuple) else (arguments,):
            deep |= isinstance(value, str) and ";16" in value
            deep |= codec.startswith("ppm") and isinstance(value, int) and value > 255
    return deep


def is_inverted(image: Image.Image) -> bool:
    """Whether a deep TIFF has white at 0, which Pillow turns round for 8 bits alone."""
    return bool(getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO)


def in_grey(image: Image.Image, window: Window, inverted: bool) -> Image.Image:
    """Map a deep `image` by `window` to mode L, then turn black into white if it is `inverted`."""
    pixels = window.apply(np.asarray(image, dtype=np.float64))
    return Image.fromarray(255 - pixels if inverted else pixels)
