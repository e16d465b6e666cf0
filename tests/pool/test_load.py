"""Files to a pool, in the private data's form."""

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data.image import ReadOptions
from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.load import load_pool

NAMES = ("cow", "dog", "ant", "bee")
PLAIN = ReadOptions()


def pixels(path):
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def test_classes_are_matched_by_name_and_each_label_stays_with_its_image(class_folder):
    root = class_folder("pool", {"ant": 2, "bee": 1, "cow": 3})
    loaded = load_pool(root, NAMES, (3, 8, 8), options=PLAIN)
    assert len(loaded.pool) == len(loaded.names) == 6
    for image, label, name in zip(
        loaded.pool.images, loaded.pool.labels.tolist(), loaded.names, strict=True
    ):
        assert name.split("/")[0] == NAMES[label]
        assert np.array_equal(image.numpy(), pixels(root / name))


def test_pool_images_are_brought_to_the_size_and_channels_of_square_private_ones(class_folder):
    root = class_folder("pool", {"ant": 2}, height=10, width=14)
    assert load_pool(root, NAMES, (1, 6, 6), options=PLAIN).pool.images.shape == (2, 1, 6, 6)


@pytest.mark.parametrize("shape", [(3, 8, 9), (3, 9, 8)])
def test_images_of_another_shape_than_oblong_private_ones_are_refused(class_folder, shape):
    root = class_folder("pool", {"ant": 1})
    said = rf"images \(3, 8, 8\) .*private ones are \(3, {shape[1]}, {shape[2]}\)"
    with pytest.raises(DpmixError, match=said):
        load_pool(root, NAMES, shape, options=PLAIN)


def test_classes_that_are_left_out_are_not_even_decoded(class_folder, truncate):
    root = class_folder("pool", {"ant": 2, "fox": 2})
    truncate(root / "fox" / "0.png")
    loaded = load_pool(root, NAMES, (3, 8, 8), unmapped="leave-out", options=PLAIN)
    assert loaded.names == ("ant/0.png", "ant/1.png")
    assert loaded.pool.labels.tolist() == [2, 2]


def test_unlabelled_images_come_in_only_if_asked_for(class_folder):
    root = class_folder("pool", {"ant": 1, "fox": 2})
    with pytest.raises(DpmixError, match="class 'fox' is not a class of the private data"):
        load_pool(root, NAMES, (3, 8, 8), options=PLAIN)
    loaded = load_pool(root, NAMES, (3, 8, 8), unmapped="unlabelled", options=PLAIN)
    assert loaded.pool.labels.tolist() == [2, UNLABELLED, UNLABELLED]


def test_a_corrupt_image_is_named_or_left_out(class_folder, truncate):
    root = class_folder("pool", {"ant": 3})
    truncate(root / "ant" / "1.png")
    with pytest.raises(DpmixError, match=r"^1 image.*'ant/1\.png'.*--skip-corrupt"):
        load_pool(root, NAMES, (3, 8, 8), options=PLAIN)
    loaded = load_pool(root, NAMES, (3, 8, 8), options=ReadOptions(skip_corrupt=True))
    assert len(loaded.pool) == 2
    assert loaded.names == ("ant/0.png", "ant/2.png")
    assert np.array_equal(loaded.pool.images[1].numpy(), pixels(root / "ant" / "2.png"))


def test_the_facts_hash_what_is_used_and_never_hold_the_path(class_folder):
    root = class_folder("alice/pool", {"ant": 2, "bee": 1})
    facts = load_pool(root, NAMES, (3, 8, 8), options=PLAIN).facts
    assert (facts.name, facts.images, facts.manifest_sha256) == ("pool", 3, None)
    assert "alice" not in str(facts.as_dict())
    relabelled = load_pool(root, NAMES[::-1], (3, 8, 8), options=PLAIN).facts
    (root / "bee" / "0.png").unlink()
    (root / "bee").rmdir()
    fewer = load_pool(root, NAMES, (3, 8, 8), options=PLAIN).facts
    assert len({f.contents_sha256 for f in (facts, relabelled, fewer)}) == 3


def test_progress_is_reported(class_folder):
    seen = []
    options = ReadOptions(progress=lambda *step: seen.append(step))
    load_pool(class_folder("pool", {"ant": 3}), NAMES, (3, 8, 8), options=options)
    assert seen[-1] == (3, 3)
    assert torch.tensor(seen).shape[1] == 2


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_colour_are_warned_of(class_folder, channels):
    root = class_folder("pool", {"ant": 2, "bee": 1})
    Image.new("RGB", (8, 8), (9, 9, 9)).save(root / "ant" / "grey.png")
    said = r"1 of 4 images of the public pool '.*pool' are of one colour \(ant/grey.png\); look"
    with pytest.warns(UserWarning, match=said):
        load_pool(root, NAMES, (channels, 8, 8), options=PLAIN)
