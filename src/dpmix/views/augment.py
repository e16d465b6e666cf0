"""Self-augmentation: reflect-padded random crop and horizontal flip, batched.

Every output row is a function of ONE source image and its own random draws.
"""

import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from dpmix.errors import DpmixError


def check_padding(padding: int, height: int, width: int) -> None:
    """Refuse a border that the image is too small to mirror."""
    if padding >= min(height, width):
        raise DpmixError(
            f"crop_padding is {padding} but the images are {height}x{width}: a reflected border "
            f"must be narrower than the image; give --crop-padding {min(height, width) - 1} or less"
        )


def _reflected(size: int, padding: int, device: torch.device) -> Int64[Tensor, " P"]:
    """Source of every padded coordinate: `2 1 | 0 1 2 3 | 2 1` for size 4, padding 2."""
    offset = torch.arange(-padding, size + padding, device=device).abs()
    return torch.minimum(offset, 2 * (size - 1) - offset) if size > 1 else offset


def self_augment(
    images: UInt8[Tensor, "S C H W"],
    source: Int64[Tensor, "G A"],
    top: Int64[Tensor, "G A"],
    left: Int64[Tensor, "G A"],
    flip: Bool[Tensor, "G A"],
    padding: int,
) -> UInt8[Tensor, "G A C H W"]:
    """Return one augmented copy of `images[source[g, a]]` for every (g, a).

    The image is reflect-padded by `padding`, cropped back to H x W at (`top`, `left`), each in
    [0, 2 * padding], and mirrored where `flip` is set (De et al. 2022, section 3).
    """
    height, width = images.shape[-2:]
    check_padding(padding, height, width)
    # torch's own reflect mode takes no uint8, a quarter of the memory traffic of float32.
    rows, columns = (_reflected(size, padding, images.device) for size in (height, width))
    padded = images.index_select(-2, rows).index_select(-1, columns) if padding else images
    mirrored = torch.stack([padded, padded.flip(-1)], dim=1) if flip.any() else padded[:, None]
    # A strided view of all (2p+1)^2 crops: indexing it copies each chosen window once.
    windows = mirrored.unfold(-2, height, 1).unfold(-2, width, 1)
    # The crop at `left` of a mirrored image is the mirrored crop at 2p - left: the same law.
    return windows[source, flip.long(), :, top, left]
