"""What identifies a data source, and which images occur in it more than once.

It is computed from private images, so it is never published. Every copy counts that is equal to the
last pixel, whatever its label, name or file format.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from jaxtyping import Int64, UInt8
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from dpmix.data.source import ImageSource, Subset, image_digests, known_persons
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError

_NAMED = 3  # images that a message names


def data_hash(splits: Splits) -> str:
    """Return one line that tells the training and test images from any others."""
    return f"{fingerprint(splits.train, splits.train_digests)} {fingerprint(splits.test)}\n"


def fingerprint(source: ImageSource, digests: UInt8[np.ndarray, "N 32"] | None = None) -> str:
    """Return the sha256 of the images in order, their labels, persons and the class names.

    `digests` are those of `image_digests`, where they are known already.
    """
    digest = sha256(repr((source.class_names, source.image_shape, len(source))).encode())
    digest.update(source.labels.numpy().tobytes())
    persons = known_persons(source)
    if persons is not None:
        digest.update(persons.owner.numpy().tobytes())
    digest.update((image_digests(source) if digests is None else digests).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class Repeats:
    """How often images are repeated."""

    images: int  # number of different images that occur more than once
    most: int  # how often the most frequent one occurs; 1 where none is repeated
    places: tuple[int, ...]  # positions of that one in the source, ascending


def find_repeats(
    digests: UInt8[np.ndarray, "N 32"],
    origins: Int64[np.ndarray, " N"] | None = None,
    owners: Int64[np.ndarray, " N"] | None = None,
) -> Repeats:
    """Count the images that occur more than once.

    Args:
        digests: of every image, see `image_digests`.
        origins: a number for every image; equal numbers mean one image, even where a random
            transform made the pixels differ.
        owners: the person of every image, where copies count that belong to different persons.
    """
    rows = np.ascontiguousarray(digests).view(np.dtype((np.void, 32))).ravel()
    _, image = np.unique(rows, return_inverse=True)
    if origins is not None:
        # Places that equal pixels or equal origins link, directly or through others, are one image.
        _, origin = np.unique(origins, return_inverse=True)
        first, second = int(image.max()) + 1, int(origin.max()) + 1
        ones = np.ones(len(image))
        links = coo_array((ones, (image, first + origin)), shape=(first + second,) * 2)
        image = connected_components(links, directed=False)[1][image]
    at = np.arange(len(image))
    if owners is not None:  # one copy for each person
        _, at = np.unique(np.stack([image, owners]), axis=1, return_index=True)
    counts = np.bincount(image[at])
    places = np.sort(at[image[at] == counts.argmax()])
    return Repeats(int((counts > 1).sum()), len(places), tuple(places.tolist()))


def image_name(source: ImageSource, place: int) -> str:
    """Return what error messages call the image at `place`: its file, or its number from 0."""
    if isinstance(source, Subset):
        return image_name(source.whole, int(source.indices[place]))
    names = file_names(source)
    return f"image {place}" if names is None else f"'{names[place]}'"


def file_names(source: ImageSource) -> tuple[str, ...] | None:
    """Return the name of every image's file; None if the source does not tell."""
    names: tuple[str, ...] | None
    if isinstance(source, Subset):
        names = file_names(source.whole)
        return None if names is None else tuple(names[place] for place in source.indices.tolist())
    names = getattr(source, "names", None)
    return names


def refuse_repeats(found: Repeats, source: ImageSource, epsilon_of: Callable[[int], float]) -> None:
    """Refuse the private images in `source` if some occur more than once (`found`).

    `epsilon_of` maps a number of equal images to the epsilon of the person in them.
    """
    if found.most == 1:
        return
    names = [image_name(source, place) for place in found.places[:_NAMED]]
    more = ", ..." if found.most > _NAMED else ""
    many = "1 image occurs" if found.images == 1 else f"{found.images} images occur"
    raise DpmixError(
        f"{many} more than once in the training set, the most frequent one {found.most} times "
        f"({', '.join(names)}{more}): for the person in it epsilon is "
        f"{epsilon_of(found.most):.3f}, not {epsilon_of(1):.3f}. Remove the copies, or train on "
        "them and state both with --allow-repeats (allow_repeats=True). Equal images can also be "
        "blank ones of different people"
    )


def refuse_shared_images(found: Repeats, source: ImageSource) -> None:
    """Refuse images in `source` that several persons have: one unit does not hold all of them."""
    if found.most == 1:
        return
    names = [image_name(source, place) for place in found.places[:_NAMED]]
    raise DpmixError(
        f"{found.images} image(s) belong to two persons or more, such as {' and '.join(names)} "
        "(equal pixels): the guarantee would not hold for who is in them; remove the copies, or "
        "give these persons one name"
    )
