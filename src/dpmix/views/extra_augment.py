"""More augmentations of one view: affine maps, colour jitter, blur, noise, cutout.

Guarantee: a row of the result is a function of ONE view and its own random draws, to the last bit,
whatever the other rows. The code therefore uses only arithmetic on single elements, sums of whole
numbers, bilinear sampling of one image, and tables: no convolution, matrix product, float sum or
exp, whose rounding may depend on the batch (`tests/views/test_extra_augment.py`).

DP-Mix (arXiv 2311.01295) compares mixing with these; we found no published strengths.
"""

from collections.abc import Callable
from functools import cache
from math import prod
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Bool, Float32, UInt8
from torch import Tensor

ExtraAugment = Literal["none", "color-jitter", "affine", "cutout", "noise", "blur", "all"]

Rows = Float32[Tensor, "R C H W"]
Draw = Float32[Tensor, "R 1 1 1"]

# Brightness, contrast and saturation, and the hue's share of the colour circle: SimCLR's for
# CIFAR-10 (Chen et al. 2020, strength 0.5).
JITTER, HUE = 0.4, 0.1
DEGREES, SHIFT, SCALE = 10, 0.1, 0.1  # mild choices of our own; shares of a side and of the size
CUTOUT_SHARE = 1 / 4  # of the side: best on CIFAR-100 in DeVries and Taylor 2017 (1708.04552)
NOISE = 0.1  # standard deviation as a share of the pixel range: torchvision's `GaussianNoise`
# Standard deviation in pixels, torchvision's; and reach to each side as a share of it, SimCLR's.
BLUR, BLUR_REACH = (0.1, 2.0), 0.05

_MID_GREY, _WHITE = 127.5, 255.0
_NOISE_TABLE = 1 << 20
_BLURS = 1024  # steps of sigma; a draw below 1, times a power of two, never rounds up


def extra_augment(
    views: UInt8[Tensor, "G A C H W"], draws: Float32[Tensor, "G A U"], kind: ExtraAugment
) -> Float32[Tensor, "G A C H W"]:
    """Return every view after `kind`, as pixels in 0..255 that are no longer whole numbers.

    `draws` are U = `DRAWS_PER_VIEW` numbers for each view, uniform in [0, 1).
    """
    rows = views.flatten(0, 1).float()
    own = draws.flatten(0, 1)[..., None, None, None].split(
        [count for _, count in AUGMENTATIONS.values()], dim=1
    )
    for (name, (augment, _)), needed in zip(AUGMENTATIONS.items(), own, strict=True):
        if kind in (name, "all"):
            rows = augment(rows, *needed.unbind(1))
    return rows.reshape(views.shape)


def _signed(draw: Draw) -> Draw:
    """Uniform in [-1, 1)."""
    return 2 * draw - 1


def _affine(rows: Rows, angle: Draw, size: Draw, across: Draw, down: Draw) -> Rows:
    """Rotate about the middle, resize and shift; black outside, bilinear between pixels."""
    height, width = rows.shape[-2:]
    # Uniform in the tangent of half the angle, so in the angle within one part in a hundred.
    half = float(np.tan(np.radians(DEGREES / 2))) * _signed(angle)
    cos, sin = (1 - half * half) / (1 + half * half), 2 * half / (1 + half * half)
    x = _places(width, rows) - (width - 1) / 2 - SHIFT * width * _signed(across)
    y = _places(height, rows)[:, None] - (height - 1) / 2 - SHIFT * height * _signed(down)
    scale = 1 + SCALE * _signed(size)
    source = ((cos * x + sin * y) / scale * (2 / width), (cos * y - sin * x) / scale * (2 / height))
    return F.grid_sample(rows, torch.stack(source, dim=-1)[:, 0], align_corners=False)


def _color_jitter(rows: Rows, light: Draw, contrast: Draw, saturation: Draw, hue: Draw) -> Rows:
    """Brightness, contrast, then saturation and hue for colour images, as in torchvision."""
    rows = (rows * (1 + JITTER * _signed(light))).clamp(0, _WHITE)
    # Whole numbers: their sum is the same in any order.
    whole = _grey(rows).round().long().sum(dim=(1, 2, 3), keepdim=True)
    rows = _blended(rows, whole / (rows.shape[-2] * rows.shape[-1]), contrast)
    if rows.shape[1] == 1:
        return rows
    return _turned_hue(_blended(rows, _grey(rows), saturation), 6 * HUE * _signed(hue))


def _grey(rows: Rows) -> Float32[Tensor, "R 1 H W"]:
    if rows.shape[1] == 1:
        return rows
    red, green, blue = rows.split(1, dim=1)
    grey: Tensor = 0.2989 * red + 0.587 * green + 0.114 * blue
    return grey


def _blended(rows: Rows, other: Tensor, draw: Draw) -> Rows:
    """Move the pixels away from `other`, or towards it."""
    share = 1 + JITTER * _signed(draw)
    return (share * rows + (1 - share) * other).clamp(0, _WHITE)


def _turned_hue(rows: Rows, sixths: Draw) -> Rows:
    """Move the hue by sixths of the colour circle, and keep HSV's saturation and value."""
    red, green, blue = rows.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Without chroma there is no hue to move, so any divisor serves.
    over = chroma.where(chroma > 0, 1.0)
    hue = ((green - blue) / over).where(
        value == red, (2 + (blue - red) / over).where(value == green, 4 + (red - green) / over)
    )
    channels = []
    for start in (5, 3, 1):  # the formula of HSV to RGB without cases
        place = start + hue + sixths
        place = place - 6 * (place / 6).floor()
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.cat(channels, dim=1)


def _blur(rows: Rows, sigma: Draw) -> Rows:
    """A Gaussian along each axis, with sigma one of 1,024 even steps and the edge repeated."""
    reach = max(1, round(BLUR_REACH * min(rows.shape[-2:])))
    weights = _kernels(reach, rows.device)[(sigma * _BLURS).long()]
    for axis in (-1, -2):
        size = rows.shape[axis]
        places = torch.arange(size, device=rows.device)
        total = weights[..., 0] * rows
        for step in range(1, reach + 1):
            before, after = (
                rows.index_select(axis, (places + way).clamp(0, size - 1)) for way in (-step, step)
            )
            total = total + weights[..., step] * (before + after)
        rows = total
    return rows


@cache
def _kernels(reach: int, device: torch.device) -> Float32[Tensor, "S W"]:
    """Weights at distances 0 to `reach` of every sigma; both sides together sum to one."""
    sigma = np.linspace(*BLUR, _BLURS)[:, None]
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights /= weights[:, :1] + 2 * weights[:, 1:].sum(axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


def _noise(rows: Rows, start: Draw) -> Rows:
    """Add a stretch of one fixed table of normal numbers, from a place drawn for the view.

    As in Salimans et al. 2017 (arXiv 1703.03864): one draw serves all pixels, on any device.
    """
    pixels = torch.arange(prod(rows.shape[1:]), device=rows.device).view(1, *rows.shape[1:])
    places = ((start * _NOISE_TABLE).long() + pixels) % _NOISE_TABLE
    return (rows + NOISE * _WHITE * _normals(rows.device)[places]).clamp(0, _WHITE)


@cache
def _normals(device: torch.device) -> Float32[Tensor, " T"]:
    return torch.from_numpy(
        np.random.default_rng(0).standard_normal(_NOISE_TABLE, dtype=np.float32)
    ).to(device)


def _cutout(rows: Rows, across: Draw, down: Draw) -> Rows:
    """A square of mid-grey about a uniformly random pixel, cut off where it leaves the image."""
    height, width = rows.shape[-2:]
    side = max(1, round(CUTOUT_SHARE * min(height, width)))
    inside = _within(_places(width, rows), width, side, across)
    return rows.masked_fill(
        inside & _within(_places(height, rows)[:, None], height, side, down), _MID_GREY
    )


def _within(places: Tensor, size: int, side: int, draw: Draw) -> Bool[Tensor, "R 1 _ _"]:
    first = (draw * size).floor() - side // 2
    return (places >= first) & (places < first + side)


def _places(size: int, like: Tensor) -> Float32[Tensor, " S"]:
    return torch.arange(size, device=like.device, dtype=torch.float32)


# name -> function of rows and draws, and the number of draws; `all` applies them in this order:
# geometry, light, lens, sensor, occlusion.
AUGMENTATIONS: dict[str, tuple[Callable[..., Rows], int]] = {
    "affine": (_affine, 4),
    "color-jitter": (_color_jitter, 4),
    "blur": (_blur, 1),
    "noise": (_noise, 1),
    "cutout": (_cutout, 2),
}

DRAWS_PER_VIEW = sum(count for _, count in AUGMENTATIONS.values())
