"""Orientation tags: a picture is turned as its tag says, once; and what else a file holds.

A camera stores the pixels as its sensor lay, and a tag (EXIF 0x0112, or XMP's copy of it) that says
how to turn them. Pillow's TIFF decoder turns by itself and drops the tag; its others do not.
"""

import warnings
from dataclasses import dataclass, field

from PIL import ExifTags, Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_AS_STORED = (0, 1)  # 0 is written for "not known"


_EMPTY_EXIF = 14  # bytes of the headers before the number of tags


@dataclass(frozen=True)
class Remarks:
    """Names of the images of which something was not used; threads may add to them.

    Attributes:
        stacks: files of more than one frame, of which the first is read.
        broken_tags: files whose orientation tag can't be read, which are not turned.
    """

    stacks: list[str] = field(default_factory=list)
    broken_tags: list[str] = field(default_factory=list)

    def warn(self, stacklevel: int = 2) -> None:
        """Warn once of each kind, with their number and an example."""
        for names, what in (
            (
                self.stacks,
                "hold more than one frame, and the first is read: save the others as separate "
                "files to use them",
            ),
            (
                self.broken_tags,
                "have an orientation tag that can't be read, and are not turned: save those that "
                "lie on their side again, upright",
            ),
        ):
            if names:
                warnings.warn(
                    f"{len(names)} image(s), such as '{min(names)}', {what}",
                    stacklevel=stacklevel + 1,
                )


def upright(image: Image.Image, name: str, remarks: Remarks | None = None) -> Image.Image:
    """Decode `image` and turn it as its orientation tag says; a tag of no sense is none.

    Args:
        image: any of Pillow's, which is not changed.
        name: for `remarks`.
        remarks: is added to.

    Returns:
        `image` itself where there is nothing to turn.
    """
    # Before the tag is read: TIFF's decoder drops it, and in a PNG it may stand after the pixels.
    image.load()
    orientation = _orientation(image)
    if remarks is not None:
        if orientation is None:
            remarks.broken_tags.append(name)
        if _has_more_frames(image):
            remarks.stacks.append(name)
    turn = _TURNS.get(orientation or 1)
    return image if turn is None else image.transpose(turn)


def _orientation(image: Image.Image) -> int | None:
    """1..8; None where there is a tag, or a block of tags, that can't be read."""
    try:
        tags = image.getexif()
        value = tags.get(ExifTags.Base.Orientation, 1)
    except MemoryError:
        raise
    # A damaged block makes Pillow raise nearly anything: SyntaxError, struct.error, ValueError, ...
    except Exception:
        return None
    block = image.info.get("exif")
    if not tags and isinstance(block, bytes) and any(block[_EMPTY_EXIF:]):
        return None
    if value in _AS_STORED:
        return 1
    return int(value) if value in _TURNS else None


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    # Looking for the second frame may meet damage after the first, which is whole.
    except Exception:
        return False
