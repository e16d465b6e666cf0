"""What identifies a data source: a hash of all that a run reads of it.

It is computed from private images, so it stays beside what was made of them and is never published.
"""

from hashlib import sha256

import numpy as np
from jaxtyping import UInt8

from dpmix.data.digests import image_digests
from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits


def data_hash(splits: Splits) -> str:
    """One line that tells the training and test images from any others."""
    return f"{fingerprint(splits.train, splits.train_digests)} {fingerprint(splits.test)}\n"


def fingerprint(source: ImageSource, digests: UInt8[np.ndarray, "N 32"] | None = None) -> str:
    """The sha256 of the images in order, their labels and the class names.

    Args:
        source: any; images that stay encoded are not decoded again.
        digests: of its images, where they are known already.
    """
    digest = sha256(repr((source.class_names, source.image_shape, len(source))).encode())
    digest.update(source.labels.numpy().tobytes())
    digest.update((image_digests(source) if digests is None else digests).tobytes())
    return digest.hexdigest()
