"""Self-augmentation against numpy's own padding, one image at a time."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.views.augment import self_augment


def crop(image, top, left, padding):
    """Pad one [C, H, W] image and crop it back to H x W."""
    _, height, width = image.shape
    border = (padding, padding)
    padded = np.pad(image, ((0, 0), border, border), mode="reflect")
    return padded[:, top : top + height, left : left + width]


def mirrored(image):
    return np.stack([np.fliplr(channel) for channel in image])


def noise(rng, *shape):
    return rng.integers(0, 256, shape, dtype=np.uint8)


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    padding = draw(st.integers(0, min(height, width) - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    images = noise(rng, draw(st.integers(1, 3)), draw(st.sampled_from([1, 3])), height, width)
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 4)))
    draws = {
        "source": rng.integers(0, len(images), shape),
        "top": rng.integers(0, 2 * padding + 1, shape),
        "left": rng.integers(0, 2 * padding + 1, shape),
        "flip": rng.random(shape) < draw(st.sampled_from([0.0, 0.5, 1.0])),
    }
    return images, draws, padding


@settings(max_examples=150, deadline=None)
@given(cases())
def test_equals_pad_crop_and_fliplr_image_by_image(case):
    images, draws, padding = case
    tensors = {name: torch.from_numpy(value) for name, value in draws.items()}
    got = self_augment(torch.from_numpy(images), **tensors, padding=padding)
    assert got.dtype == torch.uint8
    groups, copies = draws["source"].shape
    assert got.shape == (groups, copies, *images.shape[1:])
    for at in itertools.product(range(groups), range(copies)):
        image, top, left = images[draws["source"][at]], draws["top"][at], draws["left"][at]
        if draws["flip"][at]:
            # Mirroring comes first: `left` is counted from the right edge of the original.
            expected = mirrored(crop(image, top, 2 * padding - left, padding))
        else:
            expected = crop(image, top, left, padding)
        assert np.array_equal(got[at].numpy(), expected)
