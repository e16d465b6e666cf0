"""Decoded images to another size or number of channels: each on its own, uint8 throughout.

Guarantee: an array comes out as the same picture in a lossless file would. A pool is compared with
private arrays pixel by pixel, and must not look like another image for having been a file.
"""

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from dpmix.data.options import ReadOptions
from dpmix.data.pixels import in_form


def fit_images(
    images: UInt8[Tensor, "N C H W"], options: ReadOptions
) -> UInt8[Tensor, "N C2 H2 W2"]:
    """Apply `channels`, then `image_size` where set: each image as `in_form` fits it."""
    _, channels, height, width = images.shape
    size = options.image_size
    form = (options.channels or channels, *((size, size) if size else (height, width)))
    if form == images.shape[1:]:
        return images
    fitted = np.empty((len(images), *form), dtype=np.uint8)
    for row, image in enumerate(images.numpy()):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
        fitted[row] = in_form(picture, form, options.reading)
    return torch.from_numpy(fitted)
