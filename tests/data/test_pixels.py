import io
import struct
import zlib
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dpmix.data import image as pixels
from dpmix.data.image import (
    MemoryBudget,
    PixelForm,
    UnreadableImageError,
    decode_pixels,
    in_form,
    plain_channels,
)
from dpmix.errors import DpmixError
from pictures import noise_picture

BUDGET = MemoryBudget(2**30)


def decode(data, shape=(3, 8, 8), convert=False, resize=False):
    form = PixelForm(shape, convert, resize, "first")
    return decode_pixels(io.BytesIO(data), "it", form, BUDGET)


def stored(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_lossless_files_give_back_their_pixels(picture, kind, mode, channels):
    image = picture(mode, 5, 7)
    expected = np.asarray(image).reshape(5, 7, channels).transpose(2, 0, 1)
    assert np.array_equal(decode(stored(image, kind), (channels, 5, 7)), expected)


def test_jpeg_equals_pillow(picture):
    data = stored(picture(), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
    assert np.array_equal(decode(data), expected)


def test_gif_gives_its_first_frame():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = stored(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("RGB", 3), ("P", 3), ("RGBA", None), ("LA", None), ("CMYK", None)],
)
def test_plain_channels(picture, mode, channels):
    assert plain_channels(picture(mode)) == channels


def test_one_bit_is_black_and_white(picture):
    assert set(np.unique(decode(stored(picture("1")), (1, 8, 8)))) == {0, 255}


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_converts_everything_when_asked(picture, mode, shape):
    image = picture(mode)
    result = decode(stored(image), shape, convert=True)
    assert (result.shape, result.dtype) == (shape, np.uint8)
    if mode in ("1", "L", "P", "RGB"):
        expected = np.atleast_3d(np.asarray(image.convert("L" if shape[0] == 1 else "RGB")))
        assert np.array_equal(result, expected.transpose(2, 0, 1))


def test_transparent_pixels_turn_white_and_half_ones_half():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 128))
    result = decode(stored(image), convert=True)
    assert result[:, 1, 1].tolist() == [255] * 3
    assert result[0, 0, 0] == 127


def test_a_palette_with_transparency_is_not_plain(picture):
    data = stored(picture("P"), transparency=0)
    with pytest.raises(DpmixError, match=r"P with transparency.*--channels 3"):
        decode(data)


def test_cmyk_jpeg_needs_channels(picture):
    data = stored(picture("CMYK"), "JPEG")
    with pytest.raises(DpmixError, match=r"'it' is CMYK.*--channels"):
        decode(data)
    assert decode(data, convert=True).shape == (3, 8, 8)


def test_grey_among_rgb_names_both(png):
    with pytest.raises(DpmixError, match="'it' is grey and 'first' is RGB"):
        decode(png("L"))


def test_another_size_names_both(png):
    with pytest.raises(DpmixError, match=r"'it' is 8x9 and 'first' is 8x8.*--image-size 32"):
        decode(png(width=9))


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_resizing_keeps_a_flat_colour_and_the_shape(height, width, new_height, new_width):
    data = stored(Image.new("RGB", (width, height), (10, 200, 90)))
    result = decode(data, (3, new_height, new_width), resize=True)
    assert result.shape == (3, new_height, new_width)
    assert (result == np.array([10, 200, 90])[:, None, None]).all()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_nearly_the_same_proportions_are_resized_and_cut_to_the_centre(picture, mode):
    image = picture(mode, 20, 22)
    whole = np.atleast_3d(np.asarray(image.resize((110, 100), Image.Resampling.BICUBIC)))
    shape = (1 if mode == "L" else 3, 100, 100)
    result = decode(stored(image), shape, resize=True)
    assert np.array_equal(result, whole[:, 5:105].transpose(2, 0, 1))


def test_by_the_first_rule_every_image_is_cut_to_the_centre(picture):
    image = picture("RGB", 16, 32)
    whole = np.asarray(image.resize((16, 8), Image.Resampling.BICUBIC))
    result = in_form(image, (3, 8, 8), reading=1)
    assert np.array_equal(result, whole[:, 4:12].transpose(2, 0, 1))
    assert not np.array_equal(result, in_form(image, (3, 8, 8)))


@settings(deadline=None)
@given(*[st.integers(1, 40)] * 2, *[st.integers(4, 24)] * 2, st.sampled_from(["L", "RGB"]))
def test_of_other_proportions_nothing_is_cut_off(height, width, new_height, new_width, mode):
    """The whole image, resized by Pillow alone, lies inside; around it are its border pixels."""
    image = noise_picture(mode, height, width, 0)
    result = in_form(image, (1 if mode == "L" else 3, new_height, new_width))
    assert result.shape[1:] == (new_height, new_width)
    one, other = height * new_width, width * new_height
    if max(one, other) / min(one, other) <= 1.1:
        assert np.array_equal(result, in_form(image, result.shape, reading=1))
        return
    scale = min(new_height / height, new_width / width)
    inner = [max(1, round(side * scale)) for side in (height, width)]
    whole = np.atleast_3d(np.asarray(image.resize(inner[::-1], Image.Resampling.BICUBIC)))
    before = [(new_height - inner[0]) // 2, (new_width - inner[1]) // 2]
    after = [new_height - inner[0] - before[0], new_width - inner[1] - before[1]]
    padding = [*zip(before, after, strict=True), (0, 0)]
    assert 0 in [sum(pair) for pair in padding[:2]]  # one side is filled
    assert np.array_equal(result, np.pad(whole, padding, mode="edge").transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_deep_images_are_refused_even_when_converting(picture, mode):
    data = stored(picture(mode), "TIFF")
    with pytest.raises(DpmixError, match=r"more than 8 bits.*save Image\.fromarray\(np\.interp"):
        decode(data, convert=True)


def _png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _raw_png(width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(*part) for part in parts)


def test_sixteen_bit_rgb_is_refused_though_pillow_calls_it_rgb():
    data = _raw_png(2, 1, 16, 2, b"\0" + bytes(12))
    assert Image.open(io.BytesIO(data)).mode == "RGB"
    with pytest.raises(DpmixError, match="more than 8 bits"):
        decode(data)


def test_sixteen_bit_ppm_is_refused():
    with pytest.raises(DpmixError, match="more than 8 bits"):
        decode(b"P6 1 1 65535\n" + bytes(6), (3, 1, 1))


@pytest.mark.parametrize("side", [9000, 30000])
def test_a_bomb_is_refused_before_it_is_decoded(side, monkeypatch, recwarn):
    data = _raw_png(side, side, 8, 0, b"")
    monkeypatch.setattr(pixels, "_converted", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match="over the bound of 67,108,864"):
        decode(data, (1, 8, 8), resize=True)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_truncated_files_are_unreadable(picture, kind):
    data = stored(picture("RGB", 64, 64), kind)
    with pytest.raises(UnreadableImageError):
        decode(data[: len(data) // 2], (3, 64, 64), convert=True)


@pytest.mark.parametrize("data", [b"", b"text", b"%!PS-Adobe", b"P6 0 4 255\n"])
def test_what_is_no_image_is_unreadable(data):
    with pytest.raises(UnreadableImageError):
        decode(data)


def test_want_of_memory_is_not_blamed_on_the_image(png, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(pixels, "_converted", fail)
    with pytest.raises(MemoryError):
        decode(png())


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow remarks on damage that it tolerates
@settings(deadline=None)
@given(st.data())
def test_a_damaged_file_never_raises_anything_else(data):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
    whole = bytearray(stored(Image.fromarray(noise), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        # A damaged header may claim a size that is legal, and slow: the bound is not at issue here.
        with patch.object(pixels, "MAX_PIXELS", 2**16):
            result = decode(bytes(whole), convert=True, resize=True)
    except (UnreadableImageError, DpmixError):
        return
    assert result.shape == (3, 8, 8)
