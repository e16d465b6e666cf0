"""A pool that holds a private image is not public: refused where it can be known.

Files that are equal byte for byte decode to equal pixels, and arrays are resized as files are
(`data/fit.py`), so comparing pixels in the private data's own form finds an image in any lossless
format. A copy that was compressed again, cropped, mirrored or resized otherwise is not found.
"""

from hashlib import sha256
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.pool.pool import PublicPool

_BATCH = 1024


_SHOWN = 3


def refuse_overlap(pool: PublicPool, names: tuple[str, ...], splits: Splits) -> None:
    """Refuse a pool that shares an image with the private data.

    Args:
        pool: decoded to the private images' shape.
        names: of the pool's images, for the message.
        splits: the private data. Test images count too: they would teach the model the answers.

    Raises:
        DpmixError: pool images that are private ones; whether a run is refused is not protected by
            the guarantee.
    """
    held: dict[bytes, list[int]] = {}
    for index in torch.arange(len(pool)).split(_BATCH):
        for digest, place in zip(_digests(pool.images[index]), index.tolist(), strict=True):
            held.setdefault(digest, []).append(place)
    for side, source in (("training", splits.train), (splits.judged_on, splits.test)):
        if shared := sorted(_shared(held, source)):
            more = ", ..." if len(shared) > _SHOWN else ""
            raise DpmixError(
                f"the public pool is not public: {len(shared)} of its images are private {side} "
                f"images ({', '.join(names[i] for i in shared[:_SHOWN])}{more}); expected none: "
                "remove them from the pool"
            )


def refuse_private_path(pool: Path, private: Path, what: str = "the public pool") -> None:
    """Refuse a pool (or `what` `pool` is) that is the private data, or lies in or around them.

    Raises:
        DpmixError: it does.
    """
    if not private.exists():
        return
    inner, outer = pool.resolve(), private.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise DpmixError(
            f"{what} '{pool}' overlaps the private data '{private}'; expected public "
            "images only: give a folder apart from them"
        )


def _shared(held: dict[bytes, list[int]], source: ImageSource) -> set[int]:
    """Which pool images `source` holds."""
    return {
        place
        for index in torch.arange(len(source)).split(_BATCH)
        for digest in _digests(source.images(index))
        for place in held.get(digest, ())
    }


def _digests(images: UInt8[Tensor, "B C H W"]) -> list[bytes]:
    return [sha256(image.tobytes()).digest() for image in images.cpu().numpy()]
