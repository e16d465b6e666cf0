"""Decoded images to another size or number of channels: each on its own, uint8 throughout."""

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from dpmix.data.options import ReadOptions

# Bounds the copies that resizing a large array makes.
_BATCH = 4096


def fit_images(
    images: UInt8[Tensor, "N C H W"], options: ReadOptions
) -> UInt8[Tensor, "N C2 H2 W2"]:
    """Apply `image_size` (bicubic with antialias, centre crop) and `channels` where they are set.

    Grey becomes RGB by repetition, RGB becomes grey by the ITU-R 601 luma that Pillow uses.
    """
    parts = torch.split(images, _BATCH)
    if options.image_size is not None and images.shape[-2:] != (options.image_size,) * 2:
        parts = tuple(_square(part, options.image_size) for part in parts)
    if options.channels is not None and options.channels != images.shape[1]:
        convert = _to_grey if options.channels == 1 else _to_rgb
        parts = tuple(convert(part) for part in parts)
    return images if parts[0].shape[1:] == images.shape[1:] else torch.cat(parts)


def _square(images: UInt8[Tensor, "N C H W"], size: int) -> UInt8[Tensor, "N C S S"]:
    height, width = images.shape[-2:]
    short = min(height, width)
    scaled = (round(height * size / short), round(width * size / short))
    resized = interpolate(images, size=scaled, mode="bicubic", antialias=True)
    top, left = (scaled[0] - size) // 2, (scaled[1] - size) // 2
    return resized[..., top : top + size, left : left + size]


def _to_rgb(images: UInt8[Tensor, "N 1 H W"]) -> UInt8[Tensor, "N 3 H W"]:
    return images.expand(-1, 3, -1, -1)


def _to_grey(images: UInt8[Tensor, "N 3 H W"]) -> UInt8[Tensor, "N 1 H W"]:
    red, green, blue = images.int().unbind(1)
    # Pillow's own fixed-point weights, so that arrays and files convert alike.
    luma = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return luma.to(torch.uint8)[:, None]
