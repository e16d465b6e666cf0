"""What is in a pool: sizes, repeated images, corrupt ones; public images, so all may be shown.

Guarantee: every image is decoded once at its own size, and none is kept.
"""

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256

from dpmix.data.decode_pool import MAX_BYTES_IN_FLIGHT
from dpmix.data.encoded import EncodedImages
from dpmix.data.memory_budget import MemoryBudget
from dpmix.data.pixels import PixelForm, UnreadableImageError, decode_pixels, opened, turned_upright
from dpmix.data.upright import Remarks
from dpmix.errors import DpmixError
from dpmix.public.pool_files import PoolFiles


@dataclass(frozen=True)
class ImageFacts:
    """One image: (height, width), the sha256 of its RGB pixels, or why it can't be read."""

    size: tuple[int, int] | None
    pixels_sha256: bytes | None
    reason: str | None
    plain: bool = False


@dataclass(frozen=True)
class PoolInspection:
    """What a pool holds.

    Attributes:
        counts: images by class name, corrupt ones included.
        sizes: images by (height, width).
        repeated: groups of images with the same pixels, by name; the first of each is the one to
            keep.
        conflicting: how many of these groups span classes.
        corrupt: why, by image name.
        plain: images of one colour.
    """

    counts: dict[str, int]
    sizes: Counter[tuple[int, int]]
    repeated: tuple[tuple[str, ...], ...]
    conflicting: int
    corrupt: dict[str, str]
    plain: tuple[str, ...]


def inspect_pool(files: PoolFiles, report: Callable[[int, int], None]) -> PoolInspection:
    """Decode every image of a pool; `report` is told (images done, images in all).

    Raises:
        DpmixError: a file that vanished or may not be read.
    """
    images, labels = files.images, files.part.labels.tolist()
    budget = MemoryBudget(MAX_BYTES_IN_FLIGHT)
    facts: list[ImageFacts] = []
    remarks = Remarks()
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        for one in workers.map(lambda i: _facts(images, i, budget, remarks), range(len(images))):
            facts.append(one)
            report(len(facts), len(images))
    remarks.warn()
    groups: dict[bytes, list[int]] = {}
    for index, one in enumerate(facts):
        if one.pixels_sha256 is not None:
            groups.setdefault(one.pixels_sha256, []).append(index)
    repeated = [group for group in groups.values() if len(group) > 1]
    named = Counter(files.class_names[label] for label in labels)
    return PoolInspection(
        counts={name: named[name] for name in files.class_names},
        sizes=Counter(one.size for one in facts if one.size is not None),
        repeated=tuple(tuple(images.names[i] for i in group) for group in repeated),
        conflicting=sum(len({labels[i] for i in group}) > 1 for group in repeated),
        corrupt={
            images.names[i]: one.reason for i, one in enumerate(facts) if one.reason is not None
        },
        plain=tuple(images.names[i] for i, one in enumerate(facts) if one.plain),
    )


def _facts(images: EncodedImages, index: int, budget: MemoryBudget, remarks: Remarks) -> ImageFacts:
    name = images.names[index]
    try:
        with images.open(index) as stream, opened(stream, name) as image:
            turned = turned_upright(image, name)
            size = (turned.height, turned.width)
        form = PixelForm((3, *size), convert=True, resize=False, example=name)
        with images.open(index) as stream:
            pixels = decode_pixels(stream, name, form, budget, remarks)
    except UnreadableImageError as error:
        return ImageFacts(None, None, str(error))
    except DpmixError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return ImageFacts(None, None, str(error))
    digest = sha256(repr(size).encode() + pixels.tobytes())
    plain = bool((pixels == pixels[:, :1, :1]).all())
    return ImageFacts(size, digest.digest(), None, plain)
