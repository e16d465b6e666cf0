"""Canaries that are images: what they are, where they go, and what a leaking training shows."""

import numpy as np
import pytest
import torch

from dpmix.audit.canaries import WithCanaries, audit_images, make_canaries
from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError

CLASSES = ("a", "b", "c")


def source(count, seed=0, shape=(1, 8, 8)):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    return TensorSource(pixels, torch.arange(count) % 3, CLASSES)


def audit(train, **changes):
    settings = {"kind": "pattern", "canaries": 400, "runs": 1, "claimed": 1.0, "delta": 1e-5}
    return audit_images(
        train, data=source(6), held_out=source(500, seed=1), confidence=0.95,
        rng=np.random.default_rng(0), **settings | changes,
    )  # fmt: skip


def test_mislabelled_ones_are_held_out_images_with_another_label():
    held_out = source(9)
    made = make_canaries("mislabelled", 9, held_out, np.random.default_rng(0))
    places = [
        next(i for i, pixels in enumerate(held_out.pixels) if torch.equal(pixels, mine))
        for mine in made.pixels
    ]
    assert sorted(places) == list(range(9))
    assert (made.labels != held_out.labels[places]).all()


def test_patterns_are_of_the_datas_shape_and_differ():
    made = make_canaries("pattern", 50, source(3, shape=(3, 9, 7)), np.random.default_rng(0))
    assert made.pixels.shape == (50, 3, 9, 7) and len(made.pixels.unique(dim=0)) == 50
    assert set(made.labels.tolist()) == {0, 1, 2}


def test_more_mislabelled_ones_than_held_out_images_are_refused():
    with pytest.raises(DpmixError, match="10 mislabelled canaries were asked for but there are 9"):
        make_canaries("mislabelled", 10, source(9), np.random.default_rng(0))


def test_they_stand_behind_the_data():
    base, added = source(5), source(4, seed=1)
    both = WithCanaries(base, added)
    assert len(both) == 9 and both.image_shape == base.image_shape
    assert both.labels.tolist() == [*base.labels.tolist(), *added.labels.tolist()]
    index = torch.tensor([8, 0, 4, 5, 0])
    expected = torch.cat([base.pixels, added.pixels])[index]
    assert torch.equal(both.images(index), expected)


def test_a_training_that_remembers_its_images_is_found_out():
    def remembers(data):
        seen = {bytes(pixels.numpy()) for pixels in data.images(torch.arange(len(data)))}

        def gained(images):
            pixels = images.images(torch.arange(len(images)))
            return np.array([float(bytes(one.numpy()) in seen) for one in pixels])

        return gained

    found = audit(remembers)
    assert found.violated and found.one_run > 3 and found.canaries == 400
    assert audit(remembers, kind="mislabelled", runs=2).canaries == 800


def test_a_training_that_ignores_them_is_not_accused():
    rng = np.random.default_rng(1)
    found = audit(lambda data: lambda images: rng.random(len(images)))
    assert not found.violated and found.one_run < 0.5
