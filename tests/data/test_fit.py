from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data.image import MemoryBudget, PixelForm, ReadOptions, decode_pixels, fit_images


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_nothing_to_do_copies_nothing():
    images = noise(2, 3, 6, 6)
    assert fit_images(images, ReadOptions(image_size=6, channels=3)) is images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to", [None, 1, 3])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(9, 20, 6), (20, 9, 6), (12, 12, 28), (61, 80, 32), (28, 28, 16)]
)
def test_an_array_comes_out_as_the_same_picture_in_a_file(channels, to, height, width, size):
    images = noise(3, channels, height, width)
    result = fit_images(images, ReadOptions(image_size=size, channels=to))
    form = PixelForm((to or channels, size, size), convert=True, resize=True, example="")
    for image, got in zip(images.numpy(), result.numpy(), strict=True):
        stream = BytesIO()
        Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0)).save(stream, "PNG")
        stream.seek(0)
        assert np.array_equal(got, decode_pixels(stream, "x", form, MemoryBudget(1 << 20)))


def test_grey_equals_pillow():
    images = noise(1, 3, 16, 16)
    pillow = Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("L")
    result = fit_images(images, ReadOptions(channels=1))
    assert np.array_equal(result[0, 0].numpy(), np.asarray(pillow))


def test_grey_to_rgb_repeats():
    images = noise(2, 1, 4, 4)
    result = fit_images(images, ReadOptions(channels=3))
    assert torch.equal(result, torch.cat([images] * 3, dim=1))
