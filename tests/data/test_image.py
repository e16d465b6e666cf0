"""One file to pixels: against Pillow's own reading, its resizing and its `exif_transpose`."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dpmix.data import image as module
from dpmix.data.image import (
    ReadOptions,
    UnreadableImageError,
    decode_pixels,
    fit_images,
    hold_memory,
    in_form,
)
from dpmix.errors import DpmixError
from pictures import chunk, noise_picture, raw_png

TAG = 0x0112
CONVERT = ReadOptions(channels=3)
quick = settings(deadline=None)
sides = st.integers(1, 40)


def decode(data, options=ReadOptions()):  # noqa: B008  (frozen)
    return decode_pixels(io.BytesIO(data), "it", options)


def stored(image, kind="PNG", tag=None, **options):
    if tag is not None:
        options["exif"] = Image.Exif()
        options["exif"][TAG] = tag
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def channels_first(image):
    return np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_colours_are_converted_when_asked(picture, mode, channels):
    image = picture(mode)
    result = decode(stored(image), ReadOptions(channels=channels))
    assert (result.shape, result.dtype) == ((channels, 8, 8), np.uint8)
    if mode in ("1", "L", "P", "RGB"):
        expected = channels_first(image.convert("L" if channels == 1 else "RGB"))
        assert np.array_equal(result, expected)
        plain = decode(stored(image))
        assert plain.shape[0] == (1 if mode in "1L" else 3)


def test_transparent_pixels_turn_white_and_half_ones_half():
    image = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 128))
    result = decode(stored(image), CONVERT)
    assert result[:, 1, 1].tolist() == [255] * 3
    assert result[0, 0, 0] == 127


@pytest.mark.parametrize(("mode", "kind", "options", "said"), [
    ("P", "PNG", {"transparency": 0}, "P with transparency"), ("CMYK", "JPEG", {}, "'it' is CMYK"),
    ("RGBA", "PNG", {}, "RGBA with transparency"),
])  # fmt: skip
def test_other_colours_need_channels(picture, mode, kind, options, said):
    data = stored(picture(mode), kind, **options)
    with pytest.raises(DpmixError, match=rf"{said}.*--channels 3"):
        decode(data)
    assert decode(data, CONVERT).shape == (3, 8, 8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_nearly_the_same_proportions_are_resized_and_cut_to_the_centre(picture, mode):
    image = picture(mode, 20, 22)
    whole = channels_first(image.resize((110, 100), Image.Resampling.BICUBIC))
    assert np.array_equal(decode(stored(image), ReadOptions(100)), whole[:, :, 5:105])


@quick
@given(sides, sides, *[st.integers(4, 24)] * 2, st.sampled_from(["L", "RGB"]))
def test_of_other_proportions_nothing_is_cut_off(height, width, new_height, new_width, mode):
    """The whole image, resized by Pillow alone, lies inside; around it are its border pixels."""
    image = noise_picture(mode, height, width, 0)
    result = in_form(image, (1 if mode == "L" else 3, new_height, new_width))
    assert result.shape[1:] == (new_height, new_width)
    one, other = height * new_width, width * new_height
    if max(one, other) / min(one, other) <= 1.1:
        return  # cut, as above
    scale = min(new_height / height, new_width / width)
    inner = [max(1, round(side * scale)) for side in (height, width)]
    whole = channels_first(image.resize(inner[::-1], Image.Resampling.BICUBIC))
    before = [(new_height - inner[0]) // 2, (new_width - inner[1]) // 2]
    after = [new_height - inner[0] - before[0], new_width - inner[1] - before[1]]
    padding = [(0, 0), *zip(before, after, strict=True)]
    assert 0 in [sum(pair) for pair in padding[1:]]  # one side is filled
    assert np.array_equal(result, np.pad(whole, padding, mode="edge"))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("to", [None, 1, 3])
@pytest.mark.parametrize(("height", "width", "size"), [(9, 20, 6), (61, 80, 32)])
def test_an_array_comes_out_as_the_same_picture_in_a_file(channels, to, height, width, size):
    images = torch.randint(0, 256, (2, channels, height, width), dtype=torch.uint8)
    options = ReadOptions(size, to)
    for image, got in zip(images.numpy(), fit_images(images, options).numpy(), strict=True):
        picture = Image.fromarray(image[0] if channels == 1 else image.transpose(1, 2, 0))
        assert np.array_equal(got, decode(stored(picture), options))


def test_a_bomb_is_refused_before_it_is_decoded(monkeypatch, recwarn):
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadableImageError, match="over the bound of 67,108,864"):
        decode(raw_png(9000, 9000, 8, 0, b""), ReadOptions(8))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # Pillow remarks on damage that it tolerates
@quick
@given(st.data())
def test_a_damaged_file_never_raises_anything_else(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM"]))
    whole = bytearray(stored(noise_picture("RGB", 8, 8, 0), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        # A damaged header may claim a size that is legal, and slow: the bound is not at issue here.
        with patch.object(module, "MAX_PIXELS", 2**16):
            result = decode(bytes(whole), ReadOptions(8, 3))
    except DpmixError:
        return
    assert result.shape == (3, 8, 8)


def turned(data):
    return channels_first(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))


@quick
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "TIFF", "MPO"]),
       st.sampled_from([None, *range(9)]), sides, sides)  # fmt: skip
def test_every_format_is_turned_once_as_pillow_turns_it(kind, tag, height, width):
    data = stored(noise_picture("RGB", height, width, 0), kind, tag)
    assert np.array_equal(decode(data), turned(data))
    assert turned(data).shape[1:] == ((width, height) if (tag or 0) > 4 else (height, width))


@pytest.mark.parametrize("tag", [3, 6])
def test_a_tag_behind_the_pixels_of_a_png_and_one_in_xmp_alone_count(tag, picture):
    block = Image.Exif()
    block[TAG] = tag
    whole, end = stored(picture("RGB", 8, 13)), 12
    data = whole[:-end] + chunk(b"eXIf", block.tobytes()[6:]) + whole[-end:]
    packet = f'<x:xmpmeta><rdf:Description tiff:Orientation="{tag}"/></x:xmpmeta>'.encode()
    xmp = stored(picture("RGB", 8, 13), "WEBP", xmp=packet, lossless=True)
    for one in (data, xmp):
        assert turned(one).shape[1:] == ((13, 8) if tag == 6 else (8, 13))
        assert np.array_equal(decode(one), turned(one))


@pytest.mark.filterwarnings("ignore:.*[Cc]orrupt EXIF")
@quick
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.binary(max_size=60), st.booleans())
def test_a_damaged_block_of_tags_never_costs_the_image(kind, block, headed):
    exif = b"Exif\0\0" + (b"II*\0\x08\0\0\0" if headed else b"") + block
    data = stored(noise_picture("RGB", 8, 13, 0), kind, exif=exif)
    assert decode(data).shape in [(3, 8, 13), (3, 13, 8)]  # by chance it may be sound


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_a_stack_gives_its_first_frame_and_is_warned_of(kind):
    frames = [noise_picture("RGB", 8, 8, seed) for seed in range(3)]
    stack = stored(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="more than one frame, and the first is read"):
        first = decode(stack, CONVERT)
    assert np.array_equal(first, channels_first(Image.open(io.BytesIO(stack)).convert("RGB")))


def test_threads_together_stay_within_the_memory_bound():
    slot, lock = module.MAX_BYTES_IN_FLIGHT // 16, threading.Lock()
    held, most = [0], [0]

    def work(slots):
        with hold_memory(slots * slot):
            with lock:
                held[0] += min(slots, 16)
                most[0] = max(most[0], held[0])
            time.sleep(0.001)
            with lock:
                held[0] -= min(slots, 16)
            if slots == 7:
                raise RuntimeError  # memory is given back after an error too

    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(work, slots) for slots in [1, 4, 7, 50, 3] * 8]
    assert sum(one.exception(timeout=5) is not None for one in done) == 8
    assert 7 <= most[0] <= 16
