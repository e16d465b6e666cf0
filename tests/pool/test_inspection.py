"""What inspecting a pool finds."""

import os
import shutil

import pytest
from PIL import Image

from dpmix.errors import DpmixError
from dpmix.pool.inspect import inspect_pool
from dpmix.pool.load import open_pool
from pictures import noise_picture


def inspect(root):
    return inspect_pool(open_pool(root), lambda done, total: None)


def test_counts_and_sizes(class_folder):
    root = class_folder("pool", {"ant": 3, "bee": 1})
    noise_picture("L", 5, 9, seed=77).save(root / "bee" / "z.png")
    found = inspect(root)
    assert found.counts == {"ant": 3, "bee": 2}
    assert found.sizes == {(8, 8): 4, (5, 9): 1}
    assert (found.repeated, found.conflicting, found.corrupt) == ((), 0, {})


def test_repeats_are_found_by_their_pixels_whatever_the_file(class_folder):
    root = class_folder("pool", {"ant": 3, "bee": 2})
    shutil.copy(root / "ant" / "0.png", root / "ant" / "copy.png")
    Image.open(root / "ant" / "1.png").save(root / "bee" / "same.bmp")
    found = inspect(root)
    assert found.repeated == (("ant/0.png", "ant/copy.png"), ("ant/1.png", "bee/same.bmp"))
    assert found.conflicting == 1


def test_corrupt_and_unusable_images_are_named_and_the_rest_is_counted(class_folder, truncate):
    root = class_folder("pool", {"ant": 3, "bee": 1})
    truncate(root / "ant" / "1.png")
    noise_picture("I;16", 8, 8, seed=1).save(root / "bee" / "deep.png")
    found = inspect(root)
    assert set(found.corrupt) == {"ant/1.png", "bee/deep.png"}
    assert "more than 8 bits" in found.corrupt["bee/deep.png"]
    assert found.counts == {"ant": 3, "bee": 2}
    assert found.sizes == {(8, 8): 3}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(class_folder):
    root = class_folder("pool", {"ant": 2})
    (root / "ant" / "1.png").chmod(0)
    with pytest.raises(DpmixError, match="cannot be read"):
        inspect(root)


def test_a_file_that_vanishes_is_refused(class_folder):
    files = open_pool(class_folder("pool", {"ant": 2}))
    (files.path / "ant" / "1.png").unlink()
    with pytest.raises(DpmixError, match="cannot be read"):
        inspect_pool(files, lambda done, total: None)


def test_progress_counts_every_image(class_folder):
    seen = []
    inspect_pool(
        open_pool(class_folder("pool", {"ant": 3})), lambda *step: seen.append(step)
    )  # fmt: skip
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_images_of_one_colour_are_named(class_folder):
    root = class_folder("pool", {"ant": 2, "bee": 1})
    for place, colour in (("ant/black.png", 0), ("bee/white.jpg", 255)):
        Image.new("L", (8, 8), colour).save(root / place)
    assert inspect(root).plain == ("ant/black.png", "bee/white.jpg")
