import threading

import numpy as np
import pytest
import torch

from dpmix.data import decode_pool
from dpmix.data.decode_pool import decode_batch, decode_in_order
from dpmix.data.image import PixelForm, UnreadableImageError
from dpmix.errors import DpmixError

FORM = PixelForm((1, 4, 4), convert=False, resize=False, example="0")


@pytest.fixture
def many(png, encoded):
    return encoded(*(png("L", 4, 4, seed) for seed in range(150)))


@pytest.mark.parametrize("workers", [1, 4, None])
def test_results_come_in_order(many, picture, workers):
    indices = [149, 3, 3, *range(150)]
    groups = decode_in_order(many, indices, FORM, workers)
    results = [pixels for group in groups for pixels in group]
    for index, pixels in zip(indices, results, strict=True):
        assert np.array_equal(pixels[0], np.asarray(picture("L", 4, 4, index)))


def test_corrupt_images_come_back_as_their_error(png, encoded):
    images = encoded(png("L", 4, 4), b"broken", png("L", 4, 4))
    (group,) = decode_in_order(images, range(3), FORM, 2)
    assert [isinstance(item, UnreadableImageError) for item in group] == [False, True, False]


def test_results_in_flight_are_bounded(many, monkeypatch):
    monkeypatch.setattr(decode_pool, "MAX_BYTES_IN_FLIGHT", 5 * 16)
    started = [0]
    lock = threading.Lock()
    decode = decode_pool._decode

    def counted(*arguments):
        with lock:
            started[0] += 1
        return decode(*arguments)

    monkeypatch.setattr(decode_pool, "_decode", counted)
    taken = 0
    for group in decode_in_order(many, range(150), FORM, 4):
        taken += len(group)
        assert started[0] - taken <= 5
    assert taken == 150


def test_an_error_ends_the_work(many, encoded, png):
    images = encoded(png("RGB", 4, 4)) + many
    with pytest.raises(DpmixError, match="'0' is RGB"):
        list(decode_in_order(images, range(len(images)), FORM, 2))


def test_batch_stacks_and_names_what_fails(png, encoded, picture):
    images = encoded(png("L", 4, 4, 1), b"broken", png("L", 4, 4, 2))
    batch = decode_batch(images, [2, 0], FORM, 2)
    expected = [np.asarray(picture("L", 4, 4, seed))[None] for seed in (2, 1)]
    assert torch.equal(batch, torch.from_numpy(np.stack(expected)))
    with pytest.raises(DpmixError, match="'1' cannot be decoded"):
        decode_batch(images, [0, 1], FORM, 2)
