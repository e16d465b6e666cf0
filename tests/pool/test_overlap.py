"""A pool with a private image in it is found out, whatever the file looks like."""

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data import load_splits
from dpmix.data.image import ReadOptions
from dpmix.errors import DpmixError
from dpmix.pool.load import load_pool
from dpmix.pool.overlap import refuse_overlap


@pytest.fixture
def check(private, class_folder):
    """check(change): does a pool, changed by `change(root, splits)`, overlap the private data?"""

    def run(change):
        splits = private()
        root = class_folder("pool", {"ant": 4, "bee": 4}, seed=500)
        change(root, splits)
        loaded = load_pool(
            root, splits.train.class_names, splits.train.image_shape, options=ReadOptions()
        )
        refuse_overlap(loaded.pool, loaded.names, splits)

    return run


def saved(source, index, path, form="PNG"):
    pixels = source.images(torch.tensor([index]))[0].permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path, form)


def test_other_images_pass(check):
    check(lambda root, splits: None)


@pytest.mark.parametrize(("form", "name"), [("PNG", "x.png"), ("BMP", "x.bmp"), ("PPM", "x.ppm")])
def test_a_private_image_is_found_in_any_lossless_format_and_under_any_label(check, form, name):
    with pytest.raises(DpmixError, match=rf"1 of its images are private training .*ant/{name}"):
        check(lambda root, splits: saved(splits.train, 1, root / "ant" / name, form))


def test_a_test_image_is_found(check):
    with pytest.raises(DpmixError, match="private test images"):
        check(lambda root, splits: saved(splits.test, 0, root / "bee" / "0.png"))


def test_three_of_many_are_named(check):
    def all_of_them(root, splits):
        for i in range(len(splits.train)):
            saved(splits.train, i, root / "bee" / f"y{i}.png")

    with pytest.raises(DpmixError, match=r"6 of its images .*\(bee/y0.png, .*, \.\.\.\)"):
        check(all_of_them)


def test_every_copy_of_an_image_is_named(check):
    def twice(root, splits):
        for name in ("x", "y"):
            saved(splits.train, 2, root / "bee" / f"{name}.png")

    with pytest.raises(DpmixError, match=r"2 of its images .*bee/x.png, bee/y.png"):
        check(twice)


def test_one_changed_bit_is_another_image(check):
    def nearly(root, splits):
        pixels = splits.train.images(torch.tensor([0]))[0].permute(1, 2, 0).numpy().copy()
        pixels[0, 0, 0] ^= 1
        Image.fromarray(np.ascontiguousarray(pixels)).save(root / "ant" / "z.png")

    check(nearly)


@pytest.mark.parametrize("channels", [None, 1])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (61, 80), (28, 28)])
def test_private_arrays_that_were_resized_are_found_all(tmp_path, height, width, channels):
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, (12, height, width, 3), dtype=np.uint8)
    labels = np.arange(12) % 2
    np.savez(tmp_path / "a.npz", x_train=pixels[:8], y_train=labels[:8], x_test=pixels[8:],
             y_test=labels[8:])  # fmt: skip
    splits = load_splits(str(tmp_path / "a.npz"), image_size=16, channels=channels)
    (tmp_path / "pool" / "0").mkdir(parents=True)
    for i in range(8):
        Image.fromarray(pixels[i]).save(tmp_path / "pool" / "0" / f"{i}.png")
    loaded = load_pool(
        tmp_path / "pool", splits.train.class_names, splits.train.image_shape, options=ReadOptions()
    )
    with pytest.raises(DpmixError, match="8 of its images are private training images"):
        refuse_overlap(loaded.pool, loaded.names, splits)
