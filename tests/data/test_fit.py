import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data import fit
from dpmix.data.fit import fit_images
from dpmix.data.options import ReadOptions


def noise(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def test_nothing_to_do_copies_nothing():
    images = noise(2, 3, 6, 6)
    assert fit_images(images, ReadOptions(image_size=6, channels=3)) is images


@pytest.mark.parametrize(("height", "width"), [(9, 20), (20, 9), (12, 12)])
def test_resizing_is_near_pillow(height, width):
    images = noise(1, 3, height, width)
    result = fit_images(images, ReadOptions(image_size=6))
    scale = 6 / min(height, width)
    scaled = (round(width * scale), round(height * scale))
    pillow = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    resized = np.asarray(pillow.resize(scaled, Image.Resampling.BICUBIC)).astype(int)
    top, left = (scaled[1] - 6) // 2, (scaled[0] - 6) // 2
    expected = resized[top : top + 6, left : left + 6].transpose(2, 0, 1)
    assert result.dtype == torch.uint8
    assert np.abs(result[0].numpy() - expected).max() <= 2


def test_grey_equals_pillow():
    images = noise(1, 3, 16, 16)
    pillow = Image.fromarray(images[0].permute(1, 2, 0).numpy()).convert("L")
    result = fit_images(images, ReadOptions(channels=1))
    assert np.array_equal(result[0, 0].numpy(), np.asarray(pillow))


def test_grey_to_rgb_repeats():
    images = noise(2, 1, 4, 4)
    result = fit_images(images, ReadOptions(channels=3))
    assert torch.equal(result, torch.cat([images] * 3, dim=1))


def test_batches_do_not_change_the_result(monkeypatch):
    images, options = noise(5, 3, 9, 7), ReadOptions(image_size=4, channels=1)
    whole = fit_images(images, options)
    monkeypatch.setattr(fit, "_BATCH", 2)
    assert torch.equal(fit_images(images, options), whole)
