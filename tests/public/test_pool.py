"""The public pool, read from folders of real PNG files."""

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError
from dpmix.public.pool import PublicPool


def write(root, classes, height=6, width=6, mode="RGB"):
    """`root/<class>/<i>.png` of noise; the pictures by class name, [H, W, C]."""
    rng = np.random.default_rng(1)
    pictures = {}
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        shape = (count, height, width) + ((3,) if mode == "RGB" else ())
        pictures[name] = rng.integers(0, 256, shape, dtype=np.uint8)
        for index, picture in enumerate(pictures[name]):
            Image.fromarray(picture, mode).save(root / name / f"{index}.png")
    return pictures


def test_classes_are_matched_by_name_whatever_their_order(tmp_path):
    pictures = write(tmp_path, {"ant": 2, "bee": 1, "cow": 3})
    names = ("cow", "dog", "ant", "bee")
    pool = PublicPool.from_folder(tmp_path, names, (3, 6, 6))
    assert len(pool) == 6
    assert pool.images.dtype == torch.uint8
    for name, expected in pictures.items():
        got = pool.images[pool.labels == names.index(name)].permute(0, 2, 3, 1)
        assert np.array_equal(got.numpy(), expected)
    assert not (pool.labels == names.index("dog")).any()


def test_grey_images_of_any_aspect_are_read(tmp_path):
    pictures = write(tmp_path, {"ant": 2}, height=5, width=8, mode="L")
    pool = PublicPool.from_folder(tmp_path, ("ant", "bee"), (1, 5, 8))
    assert np.array_equal(pool.images[:, 0].numpy(), pictures["ant"])


def test_pool_images_are_brought_to_the_size_and_channels_of_square_private_ones(tmp_path):
    write(tmp_path, {"ant": 2, "bee": 2}, height=10, width=14)
    assert PublicPool.from_folder(tmp_path, ("ant", "bee"), (1, 6, 6)).images.shape == (4, 1, 6, 6)


def test_a_class_that_the_private_data_lacks_is_refused_with_the_nearest(tmp_path):
    write(tmp_path, {"ant": 1, "beee": 1})
    with pytest.raises(DpmixError, match=r"class 'beee' is not a class .*did you mean 'bee'\?"):
        PublicPool.from_folder(tmp_path, ("ant", "bee"), (3, 6, 6))


@pytest.mark.parametrize("shape", [(3, 6, 7), (3, 8, 6)])
def test_images_of_another_shape_than_the_private_ones_are_refused(tmp_path, shape):
    write(tmp_path, {"ant": 2})
    said = rf"images \(3, 6, 6\) .*private ones are \({shape[0]}, {shape[1]}, {shape[2]}\)"
    with pytest.raises(DpmixError, match=said):
        PublicPool.from_folder(tmp_path, ("ant",), shape)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(DpmixError, match="holds no class folders"):
        PublicPool.from_folder(tmp_path, ("ant",), (3, 6, 6))


def test_a_class_folder_without_images_is_refused(tmp_path):
    (tmp_path / "ant").mkdir()
    with pytest.raises(DpmixError, match="holds no images"):
        PublicPool.from_folder(tmp_path, ("ant",), (3, 6, 6))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DpmixError, match=r"no folder .*gone"):
        PublicPool.from_folder(tmp_path / "gone", ("ant",), (3, 6, 6))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("count", "labels"), [(0, 0), (2, 3), (3, 0)])
def test_an_empty_pool_or_one_with_too_few_labels_is_refused(count, labels):
    images = torch.zeros(count, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(DpmixError, match=f"{count} images and {labels} labels"):
        PublicPool(images, torch.zeros(labels, dtype=torch.int64))


def test_take_returns_images_and_classes_in_the_asked_order():
    images = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 1, 2, 2)
    pool = PublicPool(images, torch.tensor([4, 3, 2, 1, 0]))
    taken, classes = pool.take(torch.tensor([4, 0, 4]))
    assert taken[:, 0, 0, 0].tolist() == [4, 0, 4]
    assert classes.tolist() == [0, 4, 0]


def test_a_pool_from_a_source_keeps_each_label_with_its_image():
    pixels = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 3, 3)
    source = TensorSource(pixels, torch.tensor([1, 0, 2, 1]), ("c", "a", "b"))
    pool = PublicPool.from_source(source, ("a", "b", "c", "d"))
    assert torch.equal(pool.images, pixels)
    assert pool.labels.tolist() == [0, 2, 1, 0]
