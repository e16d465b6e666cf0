"""Many images: in order, with bounded memory; every corrupt one is found."""

import numpy as np
import pytest
import torch

from dpmix.data import decode
from dpmix.data.decode import (
    EncodedSource,
    decode_each,
    decode_files,
    decode_sources,
)
from dpmix.data.image import ReadOptions, UnreadableImageError
from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError

SKIP = ReadOptions(skip_corrupt=True)
AB = ("a", "b")


def every(source):
    return source.images(torch.arange(len(source)))


@pytest.mark.parametrize("workers", [1, 4, None])
def test_results_come_in_order_and_errors_among_them(png, encoded, picture, workers):
    images = encoded(*(png("L", 4, 4, seed) for seed in range(150)), b"broken")
    indices = [149, 3, 3, *range(151)]
    found = list(decode_each(images, indices, ReadOptions(workers=workers), (1, 4, 4)))
    for index, pixels in zip(indices[:-1], found, strict=False):
        assert np.array_equal(pixels[0], np.asarray(picture("L", 4, 4, index)))
    assert isinstance(found[-1], UnreadableImageError) and len(found) == len(indices)


@pytest.mark.parametrize("limit", [2**30, 0])
def test_skipping_leaves_the_others_next_to_their_labels(png, encoded, limit, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", limit)
    good = [png(seed=seed) for seed in range(4)]
    parts = [encoded(b"broken", good[0], good[1]), encoded(good[2], b"broken", good[3])]
    with pytest.warns(UserWarning, match=r"^left out: 2 image.*'0' \(not an image"):
        (train, test), corrupt = decode_sources(parts, AB, SKIP)
    (clean,), none = decode_sources([encoded(*good)], AB, ReadOptions())
    assert (corrupt, none) == ((0, 4), ())
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0], [0, 0])
    assert torch.equal(torch.cat([every(train), every(test)]), every(clean))


def test_a_large_set_stays_encoded_and_gives_the_same_pixels(png, encoded, monkeypatch):
    files = encoded(*(bytearray(png(height=8 + seed, seed=seed)) for seed in range(6)))
    options = ReadOptions(image_size=5, channels=1)
    (kept,), _ = decode_sources([files], AB, options)
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", 6 * 25 - 1)
    (lazy,), _ = decode_sources([files], AB, options)
    assert isinstance(kept, TensorSource)
    assert isinstance(lazy, EncodedSource)
    assert torch.equal(every(kept), every(lazy))
    assert torch.equal(kept.labels, lazy.labels)
    assert kept.image_shape == lazy.image_shape == (1, 5, 5)
    assert lazy.images(torch.arange(0)).shape == (0, 1, 5, 5)
    lazy.contents[0][:4] = b"junk"  # changed since
    with pytest.raises(DpmixError, match=r"^1 image.*'0' \(not an image"):
        lazy.images(torch.tensor([1, 0]))
    assert not any(word in repr(lazy) for word in (" names", "contents", "labels"))


def test_every_corrupt_image_is_counted_and_the_first_ten_are_named(png, encoded):
    files = encoded(b"", png(), png()[:60], *[b"broken"] * 10, png())
    said = r"^12 image.*'0' .*'2' \(.*'10' \(not an .* and 2 more; .*--skip-corrupt"
    with pytest.raises(DpmixError, match=said):
        decode_sources([files], AB, ReadOptions())
    with pytest.raises(DpmixError, match=r"2 image\(s\) cannot be decoded") as refused:
        decode_sources([encoded(b"x", b"y")], AB, SKIP)
    assert "--skip-corrupt" not in str(refused.value)  # which was given


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"mode": "L"}, "'1' is 1x8x8 and the others are 3x8x8 .* --channels 3"),
        ({"mode": "RGBA"}, "RGBA with transparency"),
        ({"width": 9}, "'1' is 3x8x9 and the others are 3x8x8 .* --image-size 32"),
        ({"mode": "I;16"}, "give dpmix train --window CENTER,WIDTH"),
    ],
)
def test_mixed_images_are_refused_even_when_skipping(png, encoded, second, said):
    with pytest.raises(DpmixError, match=said):
        decode_sources([encoded(png(), png(**second))], AB, SKIP)


def test_how_a_picture_is_read_depends_on_no_other(png, encoded):
    sizes = [(8, 8), (8, 13), (30, 4), (11, 10)]
    files = [png(height=h, width=w, seed=h) for h, w in sizes]
    (together,), _ = decode_sources([encoded(*files)], AB, ReadOptions(8))
    for index, file in enumerate(files):
        (alone,), _ = decode_sources([encoded(file)], AB, ReadOptions(8))
        assert torch.equal(alone.pixels[0], together.pixels[index])


@pytest.fixture
def paths(tmp_path, picture):
    files = []
    for seed, mode in enumerate(["RGB", "L", "RGBA", "P", "RGB"]):
        files.append(tmp_path / f"{seed}.png")
        picture(mode, 8 + seed, 8, seed).save(files[-1])
    return files


def test_files_come_out_in_the_models_form_in_bounded_batches(paths, monkeypatch):
    (whole,) = decode_files(paths, (1, 6, 5), workers=1)
    monkeypatch.setattr(decode, "_MAX_BATCH_BYTES", 2 * 30)
    batches = list(decode_files(paths, (1, 6, 5)))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), whole)
    assert list(decode_files([], (3, 8, 8))) == []


def test_all_bad_files_are_named_at_once_or_left_out(paths, picture, monkeypatch):
    """Also in later batches, also what is refused for other reasons than damage."""
    good = torch.cat(list(decode_files([paths[0], paths[2]], (3, 8, 8))))
    monkeypatch.setattr(decode, "_MAX_BATCH", 2)
    picture("I;16").save(paths[1])
    paths[3].write_bytes(b"junk")
    paths[4].unlink()
    with pytest.raises(DpmixError) as refused:
        list(decode_files(paths, (3, 8, 8)))
    said = str(refused.value)
    assert said.startswith("3 image(s) cannot be decoded") and "--skip-corrupt" in said
    for place, reason in ((1, "has more than 8 bits a channel"), (3, "not an image"),
                          (4, "cannot be read (No such")):  # fmt: skip
        assert f"'{paths[place]}' ({reason}" in said
    skipped = {}
    batches = list(decode_files(paths, (3, 8, 8), skipped=skipped))
    assert torch.equal(torch.cat(batches), good)
    assert list(skipped) == [paths[1], paths[3], paths[4]]
