"""Images that occur more than once in a data set: equal pixels, or one example of a dataset again.

Guarantee: every copy is counted that is equal to the last pixel, whatever its label, name or file
format. Images that are nearly equal are different ones here.
"""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dpmix.data.encoded_source import EncodedSource
from dpmix.data.source import ImageSource, TensorSource
from dpmix.data.splits import Splits, Subset, image_digests

# What identifies a data source: a hash of all that a run reads of it.
#
# It is computed from private images, so it stays beside what was made of them and is never
# published.


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


@dataclass(frozen=True)
class Repeats:
    """How often images are repeated. All of it is private.

    Attributes:
        images: different images that occur more than once.
        most: how often the most frequent one occurs; 1 where none is repeated.
        places: where that one is, in ascending order.
    """

    images: int
    most: int
    places: tuple[int, ...]


def find_repeats(
    digests: UInt8[np.ndarray, "N 32"], origins: Int64[np.ndarray, " N"] | None = None
) -> Repeats:
    """Count the images that occur more than once.

    Args:
        digests: of every image, from `image_digests`.
        origins: a number for every image; equal ones are one image, though a random transform made
            their pixels differ.
    """
    rows = np.ascontiguousarray(digests).view(np.dtype((np.void, 32))).ravel()
    _, image = np.unique(rows, return_inverse=True)
    if origins is not None:
        image = _joined(image, origins)
    counts = np.bincount(image)
    places = np.flatnonzero(image == counts.argmax())
    return Repeats(int((counts > 1).sum()), len(places), tuple(places.tolist()))


def _joined(
    one: Int64[np.ndarray, " N"], other: Int64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Groups of places that are linked by equal numbers in `one` or in `other`."""
    _, other = np.unique(other, return_inverse=True)
    first, second = int(one.max()) + 1, int(other.max()) + 1
    links = coo_array((np.ones(len(one)), (one, first + other)), shape=(first + second,) * 2)
    _, group = connected_components(links, directed=False)
    return np.asarray(group[one], dtype=np.int64)


def image_name(source: ImageSource, place: int) -> str:
    """What an error message calls the image at `place`: its file, or its number from 0."""
    whole = source.whole if isinstance(source, Subset) else source
    at = int(source.indices[place]) if isinstance(source, Subset) else place
    if isinstance(whole, EncodedSource):
        return f"'{whole.encoded.names[at]}'"
    if isinstance(whole, TensorSource) and whole.names is not None:
        return f"'{whole.names[at]}'"
    return f"image {at}"
