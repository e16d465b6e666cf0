"""Extra augmentations against torchvision's, one view at a time, and each row by itself."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from dpmix.views.extra_augment import AUGMENTATIONS, DRAWS_PER_VIEW, ExtraAugment, extra_augment

KINDS = [kind for kind in get_args(ExtraAugment) if kind != "none"]
SHAPES = [(1, 9, 14), (1, 1, 1), (3, 64, 64)]


def given(groups, augmented, shape, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, (groups, augmented, *shape), dtype=np.uint8)
    # Patches, not noise alone: blurred noise is grey, and grey tells little.
    views[..., : shape[1] // 2, :] = views[..., :1, :1]
    draws = rng.random((groups, augmented, DRAWS_PER_VIEW), dtype=np.float32)
    return torch.from_numpy(views), torch.from_numpy(draws)


def own(draws, name):
    """The random draws of one augmentation, of one view [DRAWS_PER_VIEW]."""
    start = 0
    for other, (_, count) in AUGMENTATIONS.items():
        if other == name:
            return [2 * float(draw) - 1 for draw in draws[start : start + count]]
        start += count
    raise KeyError(name)


def jittered(view, draws):
    light, contrast, saturation, hue = own(draws, "color-jitter")
    view = tv.adjust_brightness(view, 1 + 0.4 * light)
    view = tv.adjust_contrast(view, 1 + 0.4 * contrast)
    return tv.adjust_hue(tv.adjust_saturation(view, 1 + 0.4 * saturation), 0.1 * hue)


def moved(view, draws):
    angle, size, across, down = own(draws, "affine")
    degrees = 2 * math.degrees(math.atan(angle * math.tan(math.radians(5))))
    height, width = view.shape[-2:]
    return tv.affine(
        view, degrees, [0.1 * across * width, 0.1 * down * height], 1 + 0.1 * size, [0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )  # fmt: skip


def blurred(view, draws):
    (sigma,) = own(draws, "blur")
    reach = max(1, round(0.05 * min(view.shape[-2:])))
    width = np.linspace(0.1, 2, 1024)[int((sigma + 1) / 2 * 1024)]
    border = [reach] * 4
    padded = torch.nn.functional.pad(view[None], border, mode="replicate")[0]
    whole = tv.gaussian_blur(padded, [2 * reach + 1] * 2, [width, width])
    return whole[:, reach:-reach, reach:-reach]


def noisy(view, draws):
    (start,) = own(draws, "noise")
    table = np.random.default_rng(0).standard_normal(2**20, dtype=np.float32)
    first = int((start + 1) / 2 * 2**20)
    added = np.take(table, range(first, first + view.numel()), mode="wrap").reshape(view.shape)
    return (view + 0.1 * torch.from_numpy(added)).clamp(0, 1)


def cut(view, draws):
    across, down = own(draws, "cutout")
    height, width = view.shape[-2:]
    side = max(1, round(min(height, width) / 4))
    left = int((across + 1) / 2 * width) - side // 2
    top = int((down + 1) / 2 * height) - side // 2
    view = view.clone()
    view[:, max(top, 0) : top + side, max(left, 0) : left + side] = 0.5
    return view


SLOW = {
    "affine": moved, "color-jitter": jittered, "blur": blurred, "noise": noisy, "cutout": cut,
}  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 9, 14), (3, 33, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_equals_torchvisions_one_view_at_a_time(kind, shape):
    views, draws = given(3, 5, shape)
    got = extra_augment(views, draws, kind)
    assert got.dtype == torch.float32
    assert got.shape == views.shape
    for view, draw, found in zip(
        views.flatten(0, 1), draws.flatten(0, 1), got.flatten(0, 1), strict=True
    ):
        expected = view.float() / 255
        for name, slow in SLOW.items():
            if kind in (name, "all"):
                expected = slow(expected, draw)
        # Contrast is about a mean of whole greys: up to half a grey off, times 0.4.
        within = 0.5 / 255 if kind in ("color-jitter", "all") else 2e-5
        np.testing.assert_allclose(found.numpy() / 255, expected.numpy(), rtol=0, atol=within)


# Of the last shape, torch's mean of one view alone differs in its last bits, on two threads.
@pytest.mark.parametrize("shape", [*SHAPES, (3, 200, 200)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_to_the_bit_alone_or_in_any_company(kind, shape):
    groups = 3 if shape[1] == 200 else 7
    views, draws = given(groups, 3, shape)
    whole = extra_augment(views, draws, kind)
    order = torch.randperm(groups)
    assert torch.equal(extra_augment(views[order], draws[order], kind), whole[order])
    for g in range(groups):
        for a in range(3):
            one = extra_augment(views[g, a][None, None], draws[g, a][None, None], kind)
            assert torch.equal(one[0, 0], whole[g, a])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_stay_in_range_at_the_extremes_of_every_draw(kind, shape):
    views, _ = given(4, 2, shape)
    highest = float(np.nextafter(np.float32(1), np.float32(0)))
    for draw in (0.0, highest):
        got = extra_augment(views, torch.full((4, 2, DRAWS_PER_VIEW), draw), kind)
        assert got.isfinite().all()
        assert got.min() >= 0
        assert got.max() <= 255.001
