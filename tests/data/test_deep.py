"""Grey files of 16 bits: against numpy, from every format that Pillow reads them from."""

import io
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dpmix.data.decode import EncodedImages, decode_files, decode_sources
from dpmix.data.image import ReadOptions, decode_pixels
from dpmix.data.window import Window, parse_window
from dpmix.errors import DpmixError
from pictures import chunk, noise_picture, raw_png

WINDOW = Window(1000, 1601)  # black up to 199.5, white from 1799.5 on
DEEP = np.random.default_rng(3).integers(0, 2000, (9, 7)).astype(np.uint16)
quick = settings(deadline=None)


def grey(values):
    """`WINDOW` of whole numbers, by interpolation."""
    return np.floor(np.interp(values.astype(float), (199.5, 1799.5), (0, 255)) + 0.5)


def decode(data, window=WINDOW, **options):
    return decode_pixels(io.BytesIO(data), "it", ReadOptions(window=window, **options))


def stored(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def tiff(values, *, photometric=1, signed=False, order="<"):
    """An uncompressed TIFF of one strip, by hand."""
    height, width = values.shape
    entries = [(256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, photometric),
               (273, 4, 8), (277, 3, 1), (278, 3, height), (279, 4, values.nbytes),
               (339, 3, 2 if signed else 1)]  # fmt: skip
    pad = {3: "HHIHxx", 4: "HHII"}
    directory = b"".join(struct.pack(order + pad[kind], tag, kind, 1, value)
                         for tag, kind, value in entries)  # fmt: skip
    start = b"II*\0" if order == "<" else b"MM\0*"
    head = start + struct.pack(order + "I", 8 + values.nbytes)
    pixels = values.astype(values.dtype.newbyteorder(order)).tobytes()
    return head + pixels + struct.pack(order + "H", len(entries)) + directory + bytes(4)


FILES = {
    "png": lambda: stored(Image.fromarray(DEEP), "PNG"),
    "tiff": lambda: stored(Image.fromarray(DEEP), "TIFF"),
    "lzw tiff": lambda: stored(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
    "big-endian tiff": lambda: tiff(DEEP, order=">"),
    "pgm": lambda: stored(Image.fromarray(DEEP), "PPM"),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_a_file_is_mapped_as_numpy_maps_the_values_in_it(file):
    assert np.array_equal(decode(file())[0], grey(DEEP))
    for options in ({"channels": 3}, {"image_size": 5}):
        eight = stored(Image.fromarray(grey(DEEP).astype(np.uint8)), "PNG")
        assert np.array_equal(decode(file(), **options), decode(eight, None, **options))


@pytest.mark.parametrize("order", "<>")
def test_signed_values_keep_their_sign(order):
    values = DEEP.astype(np.int16) - 1000
    found = decode(tiff(values, signed=True, order=order), Window(0, 1601))
    assert np.array_equal(found[0], grey(DEEP))


def test_signed_values_of_8_bits_are_refused():
    values = np.array([[-1, 0], [1, 2]], np.int8)
    wide = tiff(values.astype(np.int16), signed=True)
    eight = wide.replace(
        struct.pack("<HHIHxx", 258, 3, 1, 16), struct.pack("<HHIHxx", 258, 3, 1, 8)
    )
    with pytest.raises(DpmixError, match="signed values of 8 bits"):
        decode(eight)


def test_a_tiff_whose_white_is_zero_is_turned_round():
    assert np.array_equal(decode(tiff(DEEP, photometric=0))[0], 255 - grey(DEEP))


def test_a_pgm_of_another_maximum_is_scaled_to_65535_first():
    pgm = b"P5 2 1 4095\n" + struct.pack(">2H", 0, 1000)
    scaled = 16004  # 1000 * 65535 / 4095, rounded
    assert decode(pgm, Window(scaled, 100, "LINEAR_EXACT"))[0].tolist() == [[0, 128]]


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_deep_picture_is_turned_as_a_shallow_one_is(tag):
    exif = Image.Exif()
    exif[0x0112] = tag
    eight = Image.fromarray(grey(DEEP).astype(np.uint8))
    for kind in ("PNG", "TIFF"):
        found = decode(stored(Image.fromarray(DEEP), kind, exif=exif))
        assert np.array_equal(found, decode(stored(eight, kind, exif=exif), None))


@pytest.mark.parametrize("window", [None, "dicom"])
def test_without_a_fixed_window_it_is_refused_by_name(window):
    with pytest.raises(DpmixError, match=r"^image 'it' has more than 8 bits.*--window") as refused:
        decode(FILES["png"](), window)
    advised = parse_window(re.search(r"such as ([\d,]+)", str(refused.value))[1])
    ramp = np.arange(0, 65536, 257, np.uint16)[None]
    assert np.array_equal(decode(stored(Image.fromarray(ramp), "PNG"), advised)[0, 0], range(256))


@pytest.mark.parametrize("data", [
    raw_png(2, 1, 16, 2, b"\0" + bytes(12)), b"P6 1 1 65535\n" + bytes(6),  # both open as RGB
    raw_png(2, 1, 16, 4, b"\0" + bytes(8)), stored(noise_picture("F", 4, 4, 0), "TIFF"),
    raw_png(2, 1, 16, 0, b"\0" + bytes(4), chunk(b"tRNS", b"\0\0")),
    stored(Image.fromarray(DEEP.astype(np.int32)), "TIFF"),
])  # fmt: skip
def test_deep_colours_floats_and_transparency_are_refused_with_a_window_too(data):
    with pytest.raises(DpmixError, match=r"more than 8 bits.* not plain 16-bit grey"):
        decode(data, channels=3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
def test_pictures_of_8_bits_ignore_the_window(mode):
    data = stored(noise_picture(mode, 8, 8, 0), "PNG")
    assert np.array_equal(decode(data), decode(data, None))


@quick
@given(st.lists(st.integers(0, 2**16 - 1), min_size=2, max_size=8), st.integers(1, 65536))
def test_no_picture_depends_on_another(peaks, width):
    files = [stored(Image.fromarray(np.full((2, 3), p, np.uint16)), "PNG") for p in peaks]
    options = ReadOptions(window=Window(20000, width))
    (together,), _ = decode_sources([unlabelled(files)], ("a",), options)
    for index, file in enumerate(files):
        (alone,), _ = decode_sources([unlabelled([file])], ("a",), options)
        assert torch.equal(alone.pixels[0], together.pixels[index])


def unlabelled(files):
    names, labels = tuple(map(str, range(len(files)))), torch.zeros(len(files), dtype=torch.int64)
    return EncodedImages(names, tuple(map(memoryview, files)), labels)


def test_a_damaged_file_is_corrupt_and_a_missing_window_an_error(encoded):
    good, cut = FILES["png"](), FILES["png"]()[:60]
    skip = ReadOptions(skip_corrupt=True, window=WINDOW)
    with pytest.warns(UserWarning, match=r"left out: 1 image"):
        (source,), corrupt = decode_sources([encoded(good, cut)], ("a", "b"), skip)
    assert (corrupt, len(source)) == ((1,), 1)
    with pytest.raises(DpmixError, match="--window"):
        decode_sources([encoded(good)], ("a", "b"), ReadOptions(skip_corrupt=True))


def test_files_are_read_through_the_models_window(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(FILES["png"]())
    (found,) = decode_files([path], (1, 9, 7), window="1000,1601")
    assert np.array_equal(found[0, 0], grey(DEEP))
    with pytest.raises(DpmixError, match=r"'.*a.png' \(has more than 8 bits a channel.*no fixed"):
        list(decode_files([path], (1, 9, 7)))
