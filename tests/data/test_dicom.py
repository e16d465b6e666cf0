"""DICOM files, real ones: against hand-made numbers, and against pydicom's own windowing."""

import io
import struct
import sys

import numpy as np
import pytest
from PIL import Image

pydicom = pytest.importorskip("pydicom")
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.pixels import apply_modality_lut, apply_voi_lut, convert_color_space  # noqa: E402
from pydicom.uid import (  # noqa: E402
    MPEG2MPML,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_files import EXPLICIT, IMPLICIT, PATIENT, dicom_bytes  # noqa: E402
from dpmix.data.decode import decode_sources  # noqa: E402
from dpmix.data.image import ReadOptions, UnreadableImageError, decode_pixels  # noqa: E402
from dpmix.data.window import Window  # noqa: E402
from dpmix.errors import DpmixError  # noqa: E402

RNG = np.random.default_rng(4)
TWELVE = RNG.integers(0, 4096, (6, 5)).astype(np.uint16)
SIGNED = (TWELVE.astype(np.int16) - 2048).astype(np.int16)
TISSUE = Window(40, 400)


def decode(data, window=TISSUE, **options):
    return decode_pixels(io.BytesIO(data), "it", ReadOptions(window=window, **options))


def refused(data, window=TISSUE, kind=DpmixError, **options):
    """The message, which is one line and names no patient."""
    with pytest.raises(kind) as error:
        decode(data, window, **options)
    assert type(error.value) is kind
    message = str(error.value)
    assert "\n" not in message and "Nobody" not in message
    return message


def tissue(values):
    """40,400 by hand: black at -160, white at 239."""
    return np.floor(np.interp(values, (-160, 239), (0, 255)) + 0.5)


def by_pydicom(data):
    """The first window of the file, as pydicom applies it, scaled to 0..255."""
    file = pydicom.dcmread(io.BytesIO(data))
    values = apply_modality_lut(file.pixel_array, file)
    low, high = (-(2 ** (file.BitsStored - 1)), 2 ** (file.BitsStored - 1) - 1)
    if not file.PixelRepresentation:
        low, high = 0, 2**file.BitsStored - 1
    slope, intercept = file.get("RescaleSlope", 1), file.get("RescaleIntercept", 0)
    low, high = low * slope + intercept, high * slope + intercept
    return (apply_voi_lut(values, file, index=0).astype(float) - low) / (high - low) * 255


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, RLELossless])
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(("stored", "slope", "intercept"), [
    (TWELVE, 1, -1024), (SIGNED, None, None), (SIGNED, "0.25", "-12.5"), (TWELVE, 2, None),
])  # fmt: skip
def test_it_is_rescaled_then_windowed_then_inverted(syntax, kind, stored, slope, intercept):
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "PhotometricInterpretation": kind}
    packed = None
    if syntax == RLELossless:
        packed = _rle(stored)
    data = dicom_bytes(stored, 12, syntax=syntax, encoded=packed, **tags)
    expected = tissue(stored * float(slope or 1) + float(intercept or 0))
    assert np.array_equal(decode(data)[0], expected if kind[-1] == "2" else 255 - expected)


def _rle(pixels):
    """PackBits of the high bytes, then of the low ones, each row a literal run."""
    halves = [pixels.view(np.uint16) >> 8, pixels.view(np.uint16) & 255]
    segments = [b"".join(bytes([len(row) - 1]) + row.astype(np.uint8).tobytes() for row in half)
                for half in halves]  # fmt: skip
    segments = [one + b"\0" * (len(one) % 2) for one in segments]
    header = struct.pack("<16L", 2, 64, 64 + len(segments[0]), *[0] * 13)
    return header + b"".join(segments)


@pytest.mark.parametrize("stored", [TWELVE, SIGNED])
def test_bits_that_are_not_used_such_as_an_old_overlay_do_not_count(stored):
    clean = stored.view(np.uint16) & 0x0FFF
    overlaid = (clean | RNG.integers(0, 16, clean.shape).astype(np.uint16) << 12).astype(np.uint16)
    assert not np.array_equal(clean, overlaid)
    pixels = overlaid.view(stored.dtype)
    assert np.array_equal(decode(dicom_bytes(pixels, 12))[0], tissue(stored))


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(
    ("center", "width"), [(300, 1500), ([90, 300], [400, 1500]), ("2047.5", "1")]
)
@pytest.mark.parametrize("stored", [TWELVE, SIGNED])
def test_the_first_window_of_the_file_is_that_of_pydicom(stored, center, width, function):
    data = dicom_bytes(stored, 12, WindowCenter=center, WindowWidth=width, RescaleSlope=1,
                       RescaleIntercept=-24, VOILUTFunction=function)  # fmt: skip
    off = np.abs(decode(data, "dicom")[0] - by_pydicom(data))
    assert off.max() <= 0.5 + 1e-9
    assert not np.array_equal(decode(data, "dicom"), decode(data))


def test_a_window_of_too_many_digits_is_read_without_a_word(recwarn):
    data = dicom_bytes(SIGNED, 12, WindowCenter="40", WindowWidth="400.00")
    data = data.replace(b"400.00", b"4e+002")
    assert np.array_equal(decode(data, "dicom")[0], tissue(SIGNED))
    assert not list(recwarn)


@pytest.mark.parametrize("tags", [
    {}, {"WindowCenter": 40}, {"WindowCenter": 40, "WindowWidth": 0},
    {"WindowCenter": "", "WindowWidth": ""},
    {"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "CUBIC"},
])  # fmt: skip
def test_a_file_without_a_usable_window_of_its_own_is_refused(tags, encoded):
    data = dicom_bytes(SIGNED, 12, **tags)
    assert "without a usable WindowCenter and WindowWidth" in refused(data, "dicom")
    with pytest.raises(DpmixError, match="give a fixed --window, such as 40,400"):
        decode_sources([encoded(data)], ("a",), ReadOptions(skip_corrupt=True, window="dicom"))


def test_without_a_window_deep_values_are_refused_and_8_bits_stay(encoded):
    message = refused(dicom_bytes(SIGNED, 12), None)
    assert message.startswith("image 'it' is a DICOM") and "--window CENTER,WIDTH" in message
    eight = RNG.integers(0, 256, (4, 4)).astype(np.uint8)
    for window in (None, "dicom"):
        assert np.array_equal(decode(dicom_bytes(eight), window)[0], eight)
        inverted = dicom_bytes(eight, PhotometricInterpretation="MONOCHROME1")
        assert np.array_equal(decode(inverted, window)[0], 255 - eight)
    assert np.array_equal(decode(dicom_bytes(eight.astype(np.uint16), 8), None)[0], eight)
    assert np.array_equal(decode(dicom_bytes(eight))[0], tissue(eight))
    for other in (dicom_bytes(eight.view(np.int8)), dicom_bytes(eight, RescaleIntercept=-1024)):
        assert "not 0..255" in refused(other, None)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_a_modality_table_stands_for_the_slope(vr):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 2, 16], "US"
    data = [0, 100, 200, 300]
    table.add_new("LUTData", vr, data if vr == "US" else struct.pack("<4H", *data))
    stored = np.arange(8, dtype=np.uint16).reshape(2, 4)
    data = dicom_bytes(stored, 12, ModalityLUTSequence=[table])
    looked_up = np.array([[0, 0, 0, 100], [200, 300, 300, 300]])
    assert np.array_equal(decode(data)[0], tissue(looked_up))


def test_colours_are_rgb_whatever_the_window():
    rgb = RNG.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    for window in (TISSUE, "dicom", None):
        assert np.array_equal(decode(dicom_bytes(rgb), window), rgb.transpose(2, 0, 1))
    planes = dicom_bytes(np.ascontiguousarray(rgb.transpose(2, 0, 1)).reshape(4, 6, 3),
                         PlanarConfiguration=1)  # fmt: skip
    assert np.array_equal(decode(planes), rgb.transpose(2, 0, 1))
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    found = decode(dicom_bytes(ybr, PhotometricInterpretation="YBR_FULL")).astype(int)
    assert np.abs(found - rgb.transpose(2, 0, 1)).max() <= 2
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    assert np.array_equal(decode(dicom_bytes(rgb), channels=1)[0], grey)


def test_grey_is_fitted_and_becomes_rgb_as_an_ordinary_picture_does():
    stream = io.BytesIO()
    Image.fromarray(tissue(SIGNED).astype(np.uint8)).save(stream, "PNG")
    options = {"channels": 3, "image_size": 4}
    assert np.array_equal(
        decode(dicom_bytes(SIGNED, 12), **options), decode(stream.getvalue(), **options)
    )


def test_jpeg_2000_needs_no_more_packages():
    stream = io.BytesIO()
    Image.fromarray(TWELVE).save(stream, "JPEG2000", no_jp2=True)
    data = dicom_bytes(TWELVE, 16, syntax=JPEG2000Lossless, encoded=stream.getvalue())
    assert np.array_equal(decode(data)[0], tissue(TWELVE))


@pytest.mark.parametrize(("tags", "said"), [
    ({"NumberOfFrames": 2}, "several frames"),
    ({"SharedFunctionalGroupsSequence": [Dataset()]}, "of the enhanced kind"),
    ({"PhotometricInterpretation": "PALETTE COLOR"}, "neither grey values nor 8-bit colours"),
    ({"syntax": MPEG2MPML, "encoded": b"junk"}, "in a way that pydicom does not know"),
])  # fmt: skip
def test_other_kinds_are_refused_in_a_line_even_when_skipping(tags, said, encoded):
    data = dicom_bytes(TWELVE, 12, **tags)
    assert said in refused(data)
    with pytest.raises(DpmixError, match=said):
        decode_sources([encoded(data)], ("a",), ReadOptions(skip_corrupt=True, window=TISSUE))


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless])
def test_a_missing_decoder_is_named(syntax):
    from pydicom.pixels import get_decoder

    if get_decoder(syntax).is_available:
        pytest.skip("its decoder is here")
    message = refused(dicom_bytes(TWELVE, 12, syntax=syntax, encoded=b"junk"))
    assert "JPEG" in message and "pip install python-gdcm" in message


def test_without_pydicom_the_package_is_named(monkeypatch):
    data = dicom_bytes(TWELVE, 12)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'dp-mix-images[medical]'" in refused(data)


WHOLE = dicom_bytes(TWELVE, 12)
DAMAGED = {
    "cut in its pixels": WHOLE[:-10],
    "cut in its tags": WHOLE[:300],
    "cut after its start": WHOLE[:132],
    "of a patient in its syntax": WHOLE.replace(
        b"\x10\x00UI\x14\x00", b"\x10\x00UI\xe4\x00", 1),
    "of slope 0": dicom_bytes(TWELVE, 12, RescaleSlope=0),
    "of no rows": dicom_bytes(TWELVE, 12, Rows=0),
    "of more rows": dicom_bytes(TWELVE, 12, Rows=60000),
    "of no pixels": WHOLE[: WHOLE.index(b"\xe0\x7f\x10\x00")],
    "of more bits than it has": dicom_bytes(TWELVE, 12, BitsStored=17, HighBit=16),
    "of another highest bit": dicom_bytes(TWELVE, 12, HighBit=15),
    "of junk in JPEG 2000": dicom_bytes(TWELVE, 12, syntax=JPEG2000Lossless, encoded=b"junk"),
    "of a slope that is no number": dicom_bytes(TWELVE, 12, RescaleSlope="1").replace(
        b"DS\x02\x001 ", b"DS\x02\x00na"),
    "of a patient for a slope": dicom_bytes(TWELVE, 12, RescaleSlope="1.2345").replace(
        b"1.2345", b"Nobody"),
    "that is text": b"no DICOM file",
    "that is text of another kind": b"x" * 128 + b"DICM" + b"no DICOM file" * 20,
}  # fmt: skip


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_corrupt_and_its_message_names_no_patient(data, recwarn, caplog):
    refused(data, kind=UnreadableImageError)
    shown = [str(one.message) for one in recwarn] + [one.getMessage() for one in caplog.records]
    assert not [text for text in shown if "Nobody" in text]


def test_a_damaged_file_is_left_out_when_skipping(encoded):
    files = encoded(WHOLE, *DAMAGED.values())
    with pytest.warns(UserWarning, match=rf"left out: {len(DAMAGED)} image"):
        (source,), _ = decode_sources(
            [files], ("a", "b"), ReadOptions(skip_corrupt=True, window=TISSUE)
        )
    assert len(source) == 1


def test_a_file_is_not_inflated_and_a_huge_claim_is_not_decoded(monkeypatch):
    import zlib

    start = WHOLE.index(b"\x08\x00\x16\x00")
    deflate = zlib.compressobj(wbits=-15)
    body = deflate.compress(WHOLE[start:]) + deflate.flush()
    meta = WHOLE[132:start]
    old = b"UI\x14\x001.2.840.10008.1.2.1\0"
    assert old in meta
    data = WHOLE[:132] + meta.replace(old, b"UI\x16\x001.2.840.10008.1.2.1.99") + body
    assert "deflated as a whole" in refused(data)
    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", lambda *_, **__: pytest.fail("decoded"))
    huge = dicom_bytes(TWELVE, 12, Rows=60000, Columns=60000)
    assert "over the bound" in refused(huge, kind=UnreadableImageError)


def test_no_tag_of_a_patient_is_ever_parsed(monkeypatch):
    from dpmix.data.dicom import DicomHeader

    header = DicomHeader.read(io.BytesIO(WHOLE), "it")
    assert "Rows" in header.tags and "PatientName" not in header.tags
    assert PATIENT not in repr(header) and PATIENT.encode() in WHOLE
