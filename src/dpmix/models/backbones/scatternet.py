"""`scatternet`: a wavelet scattering transform, which needs no public weights at all.

Two layers of fixed wavelets (J = 2, 8 angles; Oyallon and Mallat 2015), on which Tramer and Boneh
2021 (arXiv 2011.11660) train private classifiers.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dpmix.data.normalization import normalization
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone, BackboneRequest, Embedder
from dpmix.models.backbones.scattering import ANGLES, SCALES, Scattering

# The constants that even out scattering channels, and how they are made: from noise, no images.
#
# The spectrum of photographs falls with frequency, roughly as 1 / f (Field 1987), so first-order
# channels are large, second-order ones small, and all of them go up and down together. What that
# does to a linear head's gradient descent is undone by a linear map of the 243 channels, the same
# at every place. Its means and covariances are those of random 1 / f noise.
#
# Guarantee: they depend on a seed and on the wavelets alone, on no data set, public or private.
# `python -m dpmix.models.backbones.scatternet` writes the file anew; it is kept because
# the last bits of the numbers are a machine's own, and a backbone's hash must not be.


FILE = Path(__file__).with_name("scatternet_whitening.safetensors")


IMAGES, SIZE_scatternet_whitening, SEED = 2000, 32, 0


CHUNK = 50


# Added to every eigenvalue, in units of their mean: without it, directions that hardly occur would
# count as much as any other.
SHRINKAGE = 0.3


Transform = Callable[[Tensor], Tensor]


def scatternet_whitening() -> tuple[Float[Tensor, "C C"], Float[Tensor, " C"]]:
    """The kept weight and bias: whitened channels are weight @ channels + bias."""
    kept = load_file(FILE)
    return kept["weight"], kept["bias"]


def falling_noise(
    count: int, size: int, generator: torch.Generator
) -> Float[Tensor, "count 3 size size"]:
    """Random images in [0, 1] whose amplitudes fall as 1 / f^a, a between 0.8 and 1.6.

    Brightness and contrast are drawn for each, and colours vary together, as in photographs: most
    in brightness, less from blue to red, least from green to purple.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    # Twice the size, cropped: the Fourier transform's images are periodic.
    axis = torch.fft.fftfreq(2 * size)
    frequency = torch.hypot(axis[:, None], axis[None]).clamp(min=1 / (2 * size))
    white = torch.randn(count, 3, 2 * size, 2 * size, generator=generator)
    spectrum = torch.fft.fft2(white) * frequency ** -uniform(0.8, 1.6)
    plain = torch.fft.ifft2(spectrum).real[..., :size, :size]
    plain = plain / plain.std(dim=(1, 2, 3), keepdim=True)
    colours = torch.tensor([[1.0, 0.3, 0.1], [1.0, 0.0, -0.2], [1.0, -0.3, 0.1]])
    images = torch.einsum("ck,nkhw->nchw", colours, plain)
    images = images / images.std(dim=(1, 2, 3), keepdim=True)
    return (uniform(0.2, 0.8) + uniform(0.05, 0.35) * images).clamp(0, 1).contiguous()


def measure(transform: Transform) -> dict[str, Tensor]:
    """Weight and bias of the map that whitens `transform`'s channels [B, C, H, W] of noise."""
    images = falling_noise(IMAGES, SIZE_scatternet_whitening, torch.Generator().manual_seed(SEED))
    made = torch.cat([transform(chunk) for chunk in images.split(CHUNK)])
    samples = made.transpose(0, 1).flatten(1).double()
    mean, std = samples.mean(dim=1), samples.std(dim=1)
    # Every channel at standard deviation one first: the shrinkage is to treat them alike.
    values, vectors = torch.linalg.eigh(torch.corrcoef(samples))
    stretch = (values.clamp(min=0) + SHRINKAGE * values.mean()).rsqrt()
    weight = vectors @ torch.diag(stretch) @ vectors.T / std
    return {"weight": weight.float(), "bias": (-weight @ mean).float()}


if __name__ == "__main__":
    from dpmix.models.backbones.scattering import Scattering

    with torch.inference_mode():
        transform = Scattering(SIZE_scatternet_whitening)
        save_file(measure(lambda images: transform(images).flatten(1, 2)), FILE)


SIZE = 32


GRID = 4


class ScatterNet(nn.Module):
    """Images [B, 3, S, S] in [0, 1] to 3,888 features.

    The 243 x S/4 x S/4 numbers are averaged over a 4 x 4 grid, and the channels whitened by
    constants that depend on no data. docs/results.md compares that with Tramer and Boneh's group
    norm, and with other ways to make the numbers fewer.

    Args:
        size: S, a multiple of 4, at least 16.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scattering = Scattering(size)
        weight, bias = scatternet_whitening()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias[:, None])

    def forward(self, x: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B D"]:
        """Return the features."""
        few = F.adaptive_avg_pool2d(self.scattering(x).flatten(1, 2), GRID).flatten(2)
        weight = self.weight.expand(x.shape[0], -1, -1)  # `len` would fix B where it is exported
        return torch.baddbmm(self.bias, weight, few).flatten(1)


def scatternet(request: BackboneRequest) -> Backbone:
    """Build it; there are no weights to load.

    Raises:
        DpmixError: a size that the transform can't take.
    """
    size = request.input_size or SIZE
    if size % 2**SCALES or size < 16:
        raise DpmixError(f"backbone scatternet at {size} pixels: expected a multiple of 4 from 16")
    return Backbone(
        name="scatternet",
        module=Embedder(ScatterNet(size), size, channels_last=False),
        normalization=normalization("unit", 3),
        provenance=f"no trained weights: wavelet scattering, J = {SCALES}, {ANGLES} angles, "
        "whitened by the statistics of random noise",
        licence="none needed",
    )
