"""Compute the constants that whiten the channels of `scatternet`, from noise and no images.

    python tools/make_scatternet_whitening.py

The spectrum of photographs falls with frequency, roughly as 1 / f (Field 1987). First-order
channels are therefore large, second-order ones small, and all of them rise and fall together, which
slows down the gradient descent of a linear head. A linear map of the 243 channels, the same at
every place, undoes that. Its means and covariances are those of random 1 / f noise, so they depend
on a seed and on the wavelets alone, and on no data set, public or private.

The result is kept in the package, because the last bits of the numbers depend on the machine that
computes them, and the hash of a backbone must not.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from dpmix.models.backbones.scattering import WHITENING, Scattering

IMAGES, SIZE, SEED = 2000, 32, 0
CHUNK = 50

# Added to every eigenvalue, in units of their mean: without it, directions that hardly occur would
# count as much as any other.
SHRINKAGE = 0.3


def falling_noise(
    count: int, size: int, generator: torch.Generator
) -> Float[Tensor, "count 3 size size"]:
    """Random images in [0, 1] whose amplitudes fall as 1 / f^a, with a between 0.8 and 1.6.

    Brightness and contrast are drawn for each image, and colours vary together, as in photographs:
    most in brightness, less from blue to red, least from green to purple.
    """

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)

    # Twice the size, then cropped: the Fourier transform's images are periodic.
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


def measure(transform: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Weight and bias of the map that whitens `transform`'s channels [B, C, H, W] of noise."""
    images = falling_noise(IMAGES, SIZE, torch.Generator().manual_seed(SEED))
    made = torch.cat([transform(chunk) for chunk in images.split(CHUNK)])
    samples = made.transpose(0, 1).flatten(1).double()
    mean, std = samples.mean(dim=1), samples.std(dim=1)
    # Every channel is scaled to standard deviation one first, so that shrinkage treats them alike.
    values, vectors = torch.linalg.eigh(torch.corrcoef(samples))
    stretch = (values.clamp(min=0) + SHRINKAGE * values.mean()).rsqrt()
    weight = vectors @ torch.diag(stretch) @ vectors.T / std
    return {"weight": weight.float(), "bias": (-weight @ mean).float()}


if __name__ == "__main__":
    with torch.inference_mode():
        scattering = Scattering(SIZE)
        save_file(measure(lambda images: scattering(images).flatten(1, 2)), WHITENING)
