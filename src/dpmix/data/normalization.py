"""Fixed public constants that bring pixels to a network's range.

A mean over private images would be a query that the privacy guarantee does not cover.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from dpmix.errors import DpmixError, nearest

NORMALIZATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "unit": ((0.0,), (1.0,)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""name -> (mean, std) of pixels in [0, 1]; a single value serves every channel."""


@dataclass(frozen=True)
class Normalization:
    """(pixel / 255 - mean) / std, per channel."""

    mean: tuple[float, ...]  # C values, in units of the full pixel range
    std: tuple[float, ...]  # C values > 0, in units of the full pixel range

    def __call__(self, images: Shaped[Tensor, "*batch C H W"]) -> Float32[Tensor, "*batch C H W"]:
        """Normalise uint8 or float pixels in 0..255; another number of channels is refused."""
        if images.shape[-3] != len(self.mean):
            raise DpmixError(
                f"images have {images.shape[-3]} channels and the normalisation has "
                f"{len(self.mean)}; expected the same number: give --channels {len(self.mean)}"
            )
        pixels = images.to(torch.float32) / 255
        mean = torch.tensor(self.mean, device=images.device)[:, None, None]
        std = torch.tensor(self.std, device=images.device)[:, None, None]
        return (pixels - mean) / std


def normalization(name: str, channels: int) -> Normalization:
    """Return the constants `name`, if they are for images of `channels` channels."""
    if name not in NORMALIZATIONS:
        raise DpmixError(f"unknown normalisation '{name}': {nearest(name, NORMALIZATIONS)}")
    mean, std = NORMALIZATIONS[name]
    if len(mean) == 1:
        return Normalization(mean * channels, std * channels)
    if len(mean) != channels:
        raise DpmixError(
            f"normalisation '{name}' is for {len(mean)} channels and the images have {channels}; "
            f"give --channels {len(mean)}, or use 'half'"
        )
    return Normalization(mean, std)
