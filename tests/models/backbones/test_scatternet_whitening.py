"""The kept constants: what the script makes, and that they whiten noise they have not seen."""

import pytest
import torch

from dpmix.models.backbones import scatternet as whitening
from dpmix.models.backbones.scattering import Scattering


@pytest.fixture(scope="module")
def transform():
    scatter = Scattering(32)
    return lambda images: scatter(images).flatten(1, 2)


@pytest.mark.slow
def test_the_kept_constants_are_what_the_script_writes(transform):
    weight, bias = whitening.scatternet_whitening()
    made = whitening.measure(transform)
    torch.testing.assert_close(made["weight"], weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(made["bias"], bias, rtol=1e-3, atol=1e-3)


def test_channels_of_other_noise_are_even_and_centred(transform):
    images = whitening.falling_noise(64, 32, torch.Generator().manual_seed(1))
    weight, bias = whitening.scatternet_whitening()
    channels = transform(images).transpose(0, 1).flatten(1)
    before = torch.linalg.eigvalsh(torch.corrcoef(channels))
    white = weight @ channels + bias[:, None]
    after = torch.linalg.eigvalsh(torch.cov(white))
    assert before[-1] > 50  # brightness and contrast move all channels together
    assert after[-1] < 2
    assert white.mean(dim=1).abs().max() < 0.3


def test_noise_is_an_image_whose_amplitudes_fall_with_frequency():
    images = whitening.falling_noise(50, 32, torch.Generator().manual_seed(2))
    assert images.shape == (50, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    spectrum = torch.fft.fft2(images).abs().mean(dim=(0, 1))[0]
    assert 1.3 < spectrum[2] / spectrum[4] < 4.0  # 2 ** 0.8 and 2 ** 1.6, more or less
    assert spectrum[1] > spectrum[2] > spectrum[4] > spectrum[8]
