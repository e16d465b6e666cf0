"""The sha256 of every image's pixels: equal images have equal digests, whatever their labels.

They are computed from private images, so they are never published.
"""

from hashlib import sha256

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.encoded_source import EncodedSource
from dpmix.data.source import ImageSource
from dpmix.data.subset import Subset

_BATCH = 1024


def image_digests(source: ImageSource) -> UInt8[np.ndarray, "N 32"]:
    """The digest of every image of `source`, in order.

    Images that stay encoded were hashed when they were first decoded, and are not decoded again.
    """
    if isinstance(source, EncodedSource):
        return source.digests
    if isinstance(source, Subset) and isinstance(source.whole, EncodedSource):
        return source.whole.digests.take(source.indices.numpy(), axis=0)
    batches = torch.arange(len(source)).split(_BATCH)
    return np.concatenate([_of_batch(source.images(some)) for some in batches])


def _of_batch(images: UInt8[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B 32"]:
    pixels = images.cpu().contiguous().numpy()
    joined = b"".join(map(pixel_digest, pixels))
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(pixels), 32)


def pixel_digest(image: UInt8[np.ndarray, "C H W"]) -> bytes:
    """The 32 bytes of one image; images of one data set all have one shape."""
    return sha256(np.ascontiguousarray(image).data).digest()
