import pytest
import torch

from dpmix.data import decode
from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.encoded_source import EncodedSource
from dpmix.data.image import ReadOptions
from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError

SKIP = ReadOptions(skip_corrupt=True)


def parts(encoded, *sides):
    """One part per list of files; labels 0, 1, 0, 1, ... across them all."""
    built, start = [], 0
    for files in sides:
        labels = torch.arange(start, start + len(files)) % 2
        built.append(EncodedPart(encoded(*files), labels))
        start += len(files)
    return built


def test_parts_keep_their_own_images_and_labels(png, encoded):
    files = [png("L", 4, 4, seed) for seed in range(5)]
    (train, test), corrupt = decode_sources(
        parts(encoded, files[:3], files[3:]), ("a", "b"), ReadOptions()
    )
    (whole,), _ = decode_sources(parts(encoded, files), ("a", "b"), ReadOptions())
    assert corrupt == ()
    assert isinstance(train, TensorSource)
    assert torch.equal(torch.cat([train.pixels, test.pixels]), whole.images(torch.arange(5)))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 0], [1, 0])


def test_all_corrupt_images_are_found_and_named(png, encoded):
    files = [b"broken", png(), png()[:60], png(), b""]
    with pytest.raises(DpmixError, match=r"^3 image.*'0' .*'2' .*'4' .*--skip-corrupt"):
        decode_sources(parts(encoded, files), ("a", "b"), ReadOptions())


def test_all_are_named_and_ten_reasons_given(png, encoded):
    files = [png()] + [b"broken"] * 12
    with pytest.raises(DpmixError, match=r"^12 image.*'10' \([^']*, '11', '12'; repair"):
        decode_sources(parts(encoded, files), ("a", "b"), ReadOptions())


def test_nothing_decodes(encoded):
    with pytest.raises(DpmixError, match=r"2 image\(s\) cannot be decoded") as refused:
        decode_sources(parts(encoded, [b"x", b"y"]), ("a", "b"), SKIP)
    assert "--skip-corrupt" not in str(refused.value)  # which was given


@pytest.mark.parametrize("limit", [2**30, 0])
def test_skipping_leaves_the_others_beside_their_labels(png, encoded, limit, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", limit)
    good = [png(seed=seed) for seed in range(4)]
    train_files = [b"broken", good[0], good[1]]
    test_files = [good[2], b"broken", good[3]]
    (train, test), corrupt = decode_sources(
        parts(encoded, train_files, test_files), ("a", "b"), SKIP
    )
    (clean,), _ = decode_sources(parts(encoded, good), ("a", "b"), ReadOptions())
    assert corrupt == (0, 4)
    assert (train.labels.tolist(), test.labels.tolist()) == ([1, 0], [1, 1])
    both = [source.images(torch.arange(2)) for source in (train, test)]
    assert torch.equal(torch.cat(both), clean.images(torch.arange(4)))


def test_a_large_set_stays_encoded_and_gives_the_same_pixels(png, encoded, monkeypatch):
    files = [png(height=8 + seed, seed=seed) for seed in range(6)]
    options = ReadOptions(image_size=5, channels=1)
    (kept,), _ = decode_sources(parts(encoded, files), ("a", "b"), options)
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", 6 * 25 - 1)
    (lazy,), _ = decode_sources(parts(encoded, files), ("a", "b"), options)
    assert isinstance(kept, TensorSource)
    assert isinstance(lazy, EncodedSource)
    assert torch.equal(kept.images(torch.arange(6)), lazy.images(torch.arange(6)))
    assert torch.equal(kept.labels, lazy.labels)
    assert kept.image_shape == lazy.image_shape == (1, 5, 5)


def test_corrupt_images_are_found_in_a_large_set_too(png, encoded, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", 0)
    with pytest.raises(DpmixError, match="1 image"):
        decode_sources(parts(encoded, [png(), b"broken"]), ("a", "b"), ReadOptions())


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"mode": "L"}, "'1' is grey and '0' is RGB"),
        ({"mode": "RGBA"}, "RGBA with transparency"),
        ({"width": 9}, "'1' is 8x9 and '0' is 8x8"),
    ],
)
def test_mixed_images_are_refused(png, encoded, second, said):
    with pytest.raises(DpmixError, match=said):
        decode_sources(parts(encoded, [png(), png(**second)]), ("a", "b"), ReadOptions())


def test_a_first_image_with_alpha_needs_channels(png, encoded):
    with pytest.raises(DpmixError, match="--channels 3"):
        decode_sources(parts(encoded, [png("RGBA")]), ("a",), ReadOptions())


def test_deep_images_are_refused_even_when_skipping(png, encoded):
    with pytest.raises(DpmixError, match=r"save Image\.fromarray\(np\.interp"):
        decode_sources(parts(encoded, [png("L"), png("I;16")]), ("a", "b"), SKIP)


def test_all_grey_stays_one_channel(png, encoded):
    (source,), _ = decode_sources(parts(encoded, [png("L"), png("1")]), ("a", "b"), ReadOptions())
    assert source.image_shape == (1, 8, 8)


def test_progress_ends_at_the_total(png, encoded):
    calls = []
    options = ReadOptions(progress=lambda done, total: calls.append((done, total)), workers=2)
    decode_sources(parts(encoded, [png()] * 200), ("a", "b"), options)
    assert calls[-1] == (200, 200)
    assert calls == sorted(set(calls))
    assert len(calls) > 1
