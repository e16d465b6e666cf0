"""The scattering transform gives kymatio's numbers, and noise whitens its channels."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.models.backbones.scattering import PATHS, Scattering, ScatterNet

# Grey images: two of noise whose spectrum falls, two digits, white noise, an edge, white, a dot;
# and what kymatio 0.3.0's `Scattering2D(J=2, shape=(S, S), L=8)` of torch makes of them / 255.
GOLDEN = np.load(Path(__file__).with_name("scattering_golden.npz"))
SCRIPT = Path(__file__).parents[3] / "tools" / "make_scatternet_whitening.py"


@pytest.mark.parametrize("name", ["small", "large"])
def test_the_numbers_are_kymatios(name):
    images, expected = (torch.from_numpy(GOLDEN[name + end]) for end in ("", "_scattered"))
    transform = Scattering(images.shape[-1])
    with torch.no_grad():
        made = transform(images[:, None] / 255)
    assert made.shape == (len(images), 1, *expected.shape[1:])
    torch.testing.assert_close(made[:, 0], expected, rtol=0, atol=1e-6)


@given(
    quarter=st.integers(2, 10), count=st.integers(1, 3), channels=st.integers(1, 3),
    level=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
def test_a_plain_image_is_its_own_average_and_has_no_waves(quarter, count, channels, level):
    size = 4 * quarter
    with torch.no_grad():
        made = Scattering(size)(torch.full((count, channels, size, size), level))
    assert made.shape == (count, channels, PATHS, quarter, quarter)
    # The Gaussian's norm takes 3.1415 for pi, as kymatio does.
    assert torch.allclose(made[:, :, 0], torch.tensor(level).float(), atol=1e-3)
    assert made[:, :, 1:].abs().max() < 1e-5


@pytest.mark.slow
def test_the_kept_constants_are_what_the_script_writes():
    network = ScatterNet(32, 4)
    made = runpy.run_path(SCRIPT)["measure"](
        lambda images: network.scattering(images).flatten(1, 2)
    )
    torch.testing.assert_close(made["weight"], network.weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(made["bias"], network.bias[:, 0], rtol=1e-3, atol=1e-3)


def test_channels_of_other_noise_are_even_and_centred():
    images = runpy.run_path(SCRIPT)["falling_noise"](64, 32, torch.Generator().manual_seed(1))
    assert images.min() >= 0 and images.max() <= 1
    network = ScatterNet(32, 4)
    channels = network.scattering(images).flatten(1, 2).transpose(0, 1).flatten(1)
    white = network.weight @ channels + network.bias
    # Brightness and contrast move all channels together.
    assert torch.linalg.eigvalsh(torch.corrcoef(channels))[-1] > 50
    assert torch.linalg.eigvalsh(torch.cov(white))[-1] < 2
    assert white.mean(dim=1).abs().max() < 0.3


def test_the_map_is_the_same_before_its_average():
    images = torch.rand(2, 3, 32, 32)
    whole, few = ScatterNet(32, None)(images), ScatterNet(32, 4)(images)
    averages = F.avg_pool2d(whole.view(2, 3 * PATHS, 8, 8), 2)
    torch.testing.assert_close(averages.flatten(1), few, rtol=1e-3, atol=1e-4)
