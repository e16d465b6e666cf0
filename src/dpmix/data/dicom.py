"""One DICOM file to an 8-bit picture, by pydicom.

Only the tags in `_TAGS`, which describe pixels, are parsed. No name, date or number of a patient is
among them, so none can get into a picture, a message or a log. pydicom's own errors may quote a
file, so fixed words stand for them. Overlays are not drawn (`tests/data/test_dicom.py`).
"""

import re
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Shaped
from PIL import Image

from dpmix.data.window import MOST, OWN, Window
from dpmix.errors import DpmixError, to_install

_START = 132
_UID = re.compile(r"[0-9.]{1,64}")
_DEFLATED = "1.2.840.10008.1.2.1.99"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_TAGS = (
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "SharedFunctionalGroupsSequence",
)  # fmt: skip


def is_dicom(stream: BufferedReader | BytesIO) -> bool:
    """Whether `stream` begins as a DICOM file does: with 128 bytes of any kind, then DICM."""
    start = stream.read(_START)
    stream.seek(0)
    return len(start) == _START and start.endswith(b"DICM")


@dataclass(frozen=True)
class DicomHeader:
    """What the DICOM file of one image says of its pixels."""

    name: str  # of the image, for errors
    tags: Any  # a pydicom Dataset of those in `_TAGS`
    syntax: Any  # a pydicom UID: how the pixels are encoded
    kind: str  # the photometric interpretation
    height: int
    width: int
    bits: int  # used of each stored value
    rescale: tuple[float, float]  # slope and intercept

    @classmethod
    def read(cls, stream: BufferedReader | BytesIO, name: str) -> "DicomHeader":
        """Read the tags of the image `name`, and no pixel.

        Raises:
            DpmixError: a package is missing, or the image has several frames or other colours.
            ValueError: the file is damaged.
        """
        try:
            import pydicom  # noqa: F401
        except ImportError:
            raise DpmixError(
                f"image '{name}' is a DICOM file, which the package pydicom reads; expected it "
                f"here: {to_install('medical')}"
            ) from None
        try:
            syntax, tags = _parsed(stream, name)
            kind = _text(tags, "PhotometricInterpretation")
            size, bits = (int(tags.Rows), int(tags.Columns)), int(tags.BitsStored)
            rescale = (_number(tags, "RescaleSlope", 1), _number(tags, "RescaleIntercept", 0))
            frames = _number(tags, "NumberOfFrames", 1)
            # No NaN is at most anything; a slope of 0 would make every picture black.
            if min(size) < 1 or not all(abs(one) <= MOST for one in rescale) or not rescale[0]:
                raise ValueError
            header = cls(name, tags, syntax, kind, *size, bits, rescale)
        except (MemoryError, DpmixError):
            raise
        # Malformed files make pydicom raise nearly anything.
        except Exception:
            raise ValueError("a DICOM file that is damaged or holds no picture") from None
        header._refuse_other_kinds(frames)
        return header

    def _refuse_other_kinds(self, frames: float) -> None:
        what = f"image '{self.name}' is a DICOM file"
        # An enhanced object keeps its rescale slope and its window elsewhere.
        if frames != 1 or "SharedFunctionalGroupsSequence" in self.tags:
            raise DpmixError(
                f"{what} of several frames, or of the enhanced kind; expected one classic frame: "
                "save each as a file"
            )
        if self.kind not in (*_GREY, *_COLOURS) or (self.bits != 8 and self.kind in _COLOURS):
            raise DpmixError(
                f"{what} of neither grey values nor 8-bit colours; expected MONOCHROME1 or 2, RGB "
                "or YBR: convert it"
            )
        from pydicom.pixels.decoders.base import get_decoder

        try:
            decoder = get_decoder(self.syntax)
        except NotImplementedError:
            raise DpmixError(
                f"{what} whose pixels are encoded in a way that pydicom does not know; expected "
                "another transfer syntax: save it uncompressed"
            ) from None
        if not decoder.is_available:
            known = any("gdcm" in one for one in decoder.missing_dependencies)
            package = "python-gdcm" if known else "pylibjpeg pylibjpeg-openjpeg"
            raise DpmixError(
                f"{what} of {decoder.UID.name}, which no package here decodes; pip install "
                f"{package}, or save it uncompressed"
            )

    def picture(
        self, stream: BufferedReader | BytesIO, window: Window | Literal["dicom"] | None
    ) -> Image.Image:
        """Decode the picture: mode L by the window, or RGB as stored.

        Grey values are rescaled, mapped by the window, and inverted if white is 0 (MONOCHROME1).
        Without a window, values that are 0..255 already stay as they are.

        Args:
            stream: the file.
            window: a fixed window, in rescaled values; `dicom`: the first one of the file itself.

        Raises:
            DpmixError: the image needs a window and there is none.
            ValueError: the file is damaged.
        """
        if self.kind in _COLOURS:
            return Image.fromarray(self._stored(stream).astype(np.uint8))
        chosen = self._own_window() if window == OWN else window
        if chosen is None and not self._is_plain():
            raise self._no_own_window() if window == OWN else self._no_window()
        stored = self._stored(stream)
        grey = stored.astype(np.uint8) if chosen is None else chosen.apply(self._rescaled(stored))
        return Image.fromarray(255 - grey if self.kind == "MONOCHROME1" else grey)

    def _own_window(self) -> Window | None:
        center, width = (_text(self.tags, tag) for tag in ("WindowCenter", "WindowWidth"))
        if not center and not width:
            return None
        function = _text(self.tags, "VOILUTFunction") or "LINEAR"
        try:
            return Window(float(center), float(width), function)
        except ValueError:
            raise self._no_own_window() from None

    def _no_window(self) -> DpmixError:
        return DpmixError(
            f"image '{self.name}' is a DICOM file of grey values that are not 0..255; give dpmix "
            "train --window CENTER,WIDTH, such as 40,400, chosen without looking at the images, or "
            "--window dicom for each file's own"
        )

    def _no_own_window(self) -> DpmixError:
        return DpmixError(
            f"image '{self.name}' is a DICOM file without a usable WindowCenter and WindowWidth; "
            "expected both for --window dicom: give a fixed --window, such as 40,400"
        )

    def _is_plain(self) -> bool:
        unsigned = self.bits == 8 and self.tags.get("PixelRepresentation") == 0
        return unsigned and self.rescale == (1.0, 0.0) and "ModalityLUTSequence" not in self.tags

    def _rescaled(self, stored: Shaped[np.ndarray, "H W"]) -> Float64[np.ndarray, "H W"]:
        """Apply the modality look-up table, or the slope and the intercept."""
        if "ModalityLUTSequence" not in self.tags:
            slope, intercept = self.rescale
            return stored * np.float64(slope) + intercept
        from pydicom.pixels.processing import apply_modality_lut

        try:
            return apply_modality_lut(stored, self.tags).astype(np.float64)
        except Exception:
            raise ValueError("a DICOM file of a damaged modality look-up table") from None

    def _stored(self, stream: BufferedReader | BytesIO) -> Shaped[np.ndarray, "H W *C"]:
        from pydicom.pixels.utils import pixel_array

        try:
            stored: np.ndarray[Any, np.dtype[Any]] = pixel_array(stream, index=0)
            samples = (3,) if self.kind in _COLOURS else ()
            expected = (self.height, self.width, *samples)
            # pydicom clears the bits above these, which hold an overlay in old files.
            if stored.shape != expected or self.tags.HighBit != self.bits - 1:
                raise ValueError
            return stored
        except MemoryError:
            raise
        except Exception:
            raise ValueError(
                "a DICOM file of damaged pixels"
                if not self.syntax.is_compressed
                else "a DICOM file of compressed pixels that are damaged, or need python-gdcm"
            ) from None


def _parsed(stream: BufferedReader | BytesIO, name: str) -> tuple[Any, Any]:
    """Return the transfer syntax and the tags up to the pixels."""
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag
    from pydicom.uid import UID

    stream.seek(_START)
    meta = read_dataset(
        stream, False, True, stop_when=lambda tag, *_: tag >> 16 != 2, specific_tags=[0x00020010]
    )
    text = _text(meta, "TransferSyntaxUID")
    if not _UID.fullmatch(text):  # pydicom would quote it in a warning
        raise ValueError
    syntax = UID(text)
    if syntax == _DEFLATED:  # pydicom would inflate all of it, and a few bytes can be gigabytes
        raise DpmixError(
            f"image '{name}' is a DICOM file that is deflated as a whole; expected another "
            "transfer syntax: save it uncompressed"
        )
    tags = read_dataset(
        stream,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, *_: tag >> 16 == 0x7FE0,
        specific_tags=[*map(Tag, _TAGS)],
    )
    tags.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    stream.seek(0)
    return syntax, tags


def _text(tags: Any, keyword: str) -> str:
    """Return the first value of a tag of text; "" without.

    Its bytes are read as they are: pydicom's own reading would warn, and quote the value.
    """
    value = getattr(tags.get_item(keyword), "value", None) or b""
    first: str = value.decode("ascii", "replace").split("\\")[0]
    return first.strip(" \0")


def _number(tags: Any, keyword: str, default: float) -> float:
    text = _text(tags, keyword)
    return float(text) if text else default
