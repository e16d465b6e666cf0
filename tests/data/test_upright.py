"""Orientation tags, against Pillow's own `exif_transpose`."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from dpmix.data import decode_files, load_splits
from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.decode_pool import EncodedImages
from dpmix.data.fingerprint import data_hash
from dpmix.data.image import MemoryBudget, PixelForm, ReadOptions, decode_pixels
from dpmix.data.torch_dataset import read_images
from dpmix.data.upright import Remarks, upright

TAG = 0x0112
FORMATS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif", "MPO": ".jpg"}
TURNED_BY_A_QUARTER = (5, 6, 7, 8)


def noise(height=8, width=13, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def stored(image, kind, tag=None, **options):
    if tag is not None:
        options["exif"] = Image.Exif()
        options["exif"][TAG] = tag
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def expected(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(BytesIO(data)))).transpose(2, 0, 1)


def decode(data, shape, remarks=None, reading=2, resize=False):
    form = PixelForm(shape, True, resize, "first", reading)
    return decode_pixels(BytesIO(data), "it", form, MemoryBudget(1 << 24), remarks)


def part(*files):
    names = tuple(map(str, range(len(files))))
    images = EncodedImages(names, tuple(map(memoryview, files)))
    return EncodedPart(images, torch.arange(len(files)) % 2)


TAGGED = st.tuples(
    st.sampled_from(sorted(FORMATS)), st.sampled_from([None, *range(9)]),
    st.integers(1, 20), st.integers(1, 20),
)  # fmt: skip


@settings(deadline=None)
@given(TAGGED)
def test_every_format_is_turned_once_as_pillow_turns_it(case):
    kind, tag, height, width = case
    data = stored(noise(height, width), kind, tag)
    right = expected(data)
    remarks = Remarks()
    assert np.array_equal(decode(data, right.shape, remarks), right)
    assert right.shape[1:] == ((width, height) if tag in TURNED_BY_A_QUARTER else (height, width))
    assert remarks == Remarks()


@settings(deadline=None)
@given(TAGGED)
def test_the_common_size_and_the_pixels_in_memory_are_the_turned_ones(case):
    kind, tag, height, width = case
    data = stored(noise(height, width), kind, tag)
    right = expected(data)
    (source,), _ = decode_sources([part(data, data)], ("a", "b"), ReadOptions())
    assert source.image_shape == right.shape
    assert np.array_equal(source.pixels[1].numpy(), right)


def png_with_its_tag_behind_the_pixels(tag):
    image, block = noise(), Image.Exif()
    block[TAG] = tag
    body = b"eXIf" + block.tobytes()[6:]
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    stream = BytesIO()
    image.save(stream, "PNG")
    whole, end = stream.getvalue(), 12
    return whole[:-end] + chunk + whole[-end:]


@pytest.mark.parametrize("tag", [3, 6])
def test_a_tag_behind_the_pixels_of_a_png_counts(tag):
    data = png_with_its_tag_behind_the_pixels(tag)
    right = expected(data)
    assert right.shape[1:] == ((13, 8) if tag == 6 else (8, 13))
    assert np.array_equal(decode(data, right.shape), right)


def test_a_tag_in_xmp_alone_counts():
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = stored(noise(), "WEBP", xmp=packet, lossless=True)
    assert np.array_equal(decode(data, (3, 13, 8)), expected(data))


@pytest.mark.filterwarnings("ignore:.*[Cc]orrupt EXIF")
@settings(deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.binary(max_size=60), st.booleans())
def test_a_damaged_block_of_tags_never_costs_the_image(kind, block, headed):
    exif = b"Exif\0\0" + (b"II*\0\x08\0\0\0" if headed else b"") + block
    data = stored(noise(), kind, exif=exif)
    # By chance it may be a sound one.
    shapes = [(3, 8, 13), (3, 13, 8)]
    results = []
    for shape in shapes:
        try:
            results.append(decode(data, shape, remarks=Remarks()))
        except Exception as error:
            assert "expected one size" in str(error)
    assert len(results) == 1


@pytest.mark.filterwarnings("ignore:.*[Cc]orrupt EXIF")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"Exif\0\0" + bytes(range(40)), id="no header"),
        pytest.param(b"Exif\0\0II*\0\x08\0\0\0" + b"\xff" * 9, id="cut short"),
        pytest.param(
            b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, TAG, 3, 1, 99, 0), id="value 99"
        ),
    ],
)
def test_a_tag_of_no_sense_is_none_and_is_counted(kind, block):
    data, plain = stored(noise(), kind, exif=block), stored(noise(), kind)
    files = [data, plain, data]
    with pytest.warns(UserWarning, match=r"2 image\(s\), such as '0', .*not turned"):
        (source,), _ = decode_sources([part(*files)], ("a", "b"), ReadOptions())
    assert np.array_equal(source.pixels[0].numpy(), source.pixels[1].numpy())


@pytest.mark.parametrize("tag", [None, 1, 0])
def test_no_tag_and_one_that_says_nothing_are_no_remark(tag, recwarn):
    decode_sources([part(stored(noise(), "JPEG", tag))], ("a", "b"), ReadOptions())
    assert not recwarn.list


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_a_stack_gives_its_first_frame_and_is_warned_of_once(kind, tmp_path):
    frames = [noise(seed=i) for i in range(3)]
    stack = stored(frames[0], kind, save_all=True, append_images=frames[1:])
    single = stored(frames[0], "JPEG" if kind == "MPO" else kind)
    said = r"2 image\(s\), such as '1', .*more than one frame, and the first is read"
    with pytest.warns(UserWarning, match=said) as seen:
        (source,), _ = decode_sources(
            [part(single, stack, stack)], ("a", "b"), ReadOptions(channels=3)
        )
    assert len(seen) == 1
    if kind not in ("MPO", "WEBP", "GIF"):  # lossless
        assert np.array_equal(source.pixels[0].numpy(), source.pixels[1].numpy())
    path = tmp_path / "stack"
    path.write_bytes(stack)
    with pytest.warns(UserWarning, match=r"1 image\(s\), such as '.*stack'.*frame") as seen:
        list(decode_files([path] * 1, (3, 8, 8)))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", FORMATS)
def test_files_to_predict_on_are_turned(kind, tmp_path):
    path = tmp_path / f"photo{FORMATS[kind]}"
    path.write_bytes(stored(noise(8, 13), kind, 6))
    (batch,) = decode_files([path], (3, 13, 8))
    assert np.array_equal(batch[0].numpy(), expected(path.read_bytes()))


class Pairs:
    def __init__(self, *images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 2


@settings(deadline=None)
@given(TAGGED)
def test_an_image_of_a_torch_dataset_is_turned_once(case):
    kind, tag, height, width = case
    data = stored(noise(height, width), kind, tag)
    right = expected(data)
    opened, loaded = (Image.open(BytesIO(data)) for _ in range(2))
    loaded.load()
    converted = Image.open(BytesIO(data)).convert("RGB")  # what torchvision's ImageFolder gives
    turned = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    for image in (opened, loaded, converted, turned):
        dataset = Pairs(image, image)
        for _ in range(2):  # it is not changed by being read
            pixels, _ = read_images(dataset)
            assert np.array_equal(pixels[1].numpy(), right)


def write(root: Path, tag):
    for side, count in (("train", 3), ("test", 2)):
        for label, name in enumerate("ab"):
            folder = root / side / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture = noise(12, 12, seed=10 * label + i)
                (folder / f"{i}.png").write_bytes(stored(picture, "PNG", tag))
    return root


def test_the_fingerprint_tells_turned_images_from_those_that_are_not(tmp_path):
    """So features cached, and runs begun, before tags were heeded are not taken for today's."""
    plain, tagged = write(tmp_path / "plain", None), write(tmp_path / "tagged", 6)
    hashes = {
        (name, reading): data_hash(load_splits(str(root), reading=reading))
        for name, root in (("plain", plain), ("tagged", tagged))
        for reading in (1, 2)
    }
    assert hashes["plain", 1] == hashes["plain", 2] == hashes["tagged", 1]
    assert hashes["tagged", 2] != hashes["tagged", 1]


def test_the_tag_of_a_picture_that_was_turned_is_gone():
    image = Image.open(BytesIO(stored(noise(), "TIFF", 6)))
    once = upright(image, "it")
    assert np.array_equal(np.asarray(upright(once, "it")), np.asarray(once))


def test_how_a_picture_is_read_depends_on_no_other():
    files = [
        stored(noise(height, width, seed), "PNG", tag)
        for seed, (height, width, tag) in enumerate(
            [(8, 8, None), (8, 13, 6), (30, 4, 3), (11, 10, None), (9, 8, 5)]
        )
    ]
    options = ReadOptions(image_size=8)
    (together,), _ = decode_sources([part(*files)], ("a", "b"), options)
    for index, file in enumerate(files):
        (alone,), _ = decode_sources([part(file)], ("a", "b"), options)
        assert torch.equal(alone.pixels[0], together.pixels[index])
