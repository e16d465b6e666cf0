# ruff: noqa: NPY002  (the legacy generator is what transforms draw from)
import random
import warnings
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, IterableDataset, WeightedRandomSampler
from torchvision.transforms import functional as transforms

from dpmix.data.torch_dataset import read_images
from dpmix.errors import DpmixError

RGB = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(RGB).permute(0, 3, 1, 2)
GREY = Image.new("L", (6, 4), 7)


def pairs(images, labels=(0, 2, 1, 0, 2)):
    return list(zip(images, labels, strict=False))


@pytest.mark.parametrize("images", [
    [Image.fromarray(image) for image in RGB],
    list(PIXELS),
    [transforms.to_tensor(Image.fromarray(image)) for image in RGB],
    [2 * transforms.to_tensor(image).double() - 1 for image in RGB],
], ids=["PIL", "uint8", "floats", "floats around zero"])  # fmt: skip
def test_the_same_pixels_come_of_every_kind_of_image(images):
    value_range = (float(images[0].min() < 0) * -1.0, 1.0) if torch.is_tensor(images[0]) else None
    pixels, labels = read_images(pairs(images), value_range)
    assert torch.equal(pixels, PIXELS)
    assert labels.tolist() == [0, 2, 1, 0, 2]


@pytest.mark.parametrize("kind", [
    int, float, np.int16, np.float32,
    lambda y: np.array([y], np.uint8), lambda y: np.array([y], float),
    torch.tensor, lambda y: torch.tensor([y]), lambda y: torch.tensor([float(y)]),
])  # fmt: skip
def test_labels_of_one_whole_number_are_integers(kind):
    pixels, labels = read_images(pairs([GREY] * 3, [kind(y) for y in (0, 2, 1)]))
    assert labels.tolist() == [0, 2, 1]
    assert pixels.shape == (3, 1, 4, 6) and (pixels == 7).all()


def test_every_example_is_read_by_itself():
    """Another example's pixels move nothing, whatever the range of either."""
    changed = PIXELS.float() / 255
    changed[1:] = 0
    (one, _), (two, _) = (read_images(pairs(i), (0, 1)) for i in (PIXELS.float() / 255, changed))
    assert torch.equal(one[0], two[0])


@pytest.mark.usefixtures("unchecked")
def test_a_loader_draws_by_a_rule_that_no_plan_counts():
    sampler = WeightedRandomSampler([0.1, 0.9, 0.1, 0.1, 0.1], 5)
    loader = DataLoader(pairs(list(PIXELS)), sampler=sampler)
    with pytest.raises(DpmixError, match=r"draws of its WeightedRandomSampler; .* loader\.dataset"):
        read_images(loader)


class Stream(IterableDataset):
    def __iter__(self):
        yield GREY, 0


@pytest.mark.parametrize(("dataset", "said"), [
    (pairs([GREY, Image.new("L", (5, 4))]), r"image 1 .* is \[1, 4, 5\] and image 0 \[1, 4, 6\]"),
    (pairs([PIXELS[0].float() / 255]), r"image 0 .* torch.float32, whose range is not known"),
    (pairs([PIXELS[0].int()]), r"image 0 .* torch.int32, whose range"),
    (pairs([Image.new("RGBA", (6, 4))]), r"image 0 of the dataset is RGBA; expected 8-bit grey"),
    (pairs([Image.new("I;16", (6, 4))]), r"image 0 of the dataset is I;16"),
    (pairs([RGB[0]]), r"image 0 of the dataset is a ndarray; expected a PIL image or a tensor"),
    (pairs([PIXELS[0, 0]]), r"image 0 of the dataset has shape \[4, 6\]"),
    ([{"image": GREY, "label": 0}], r"item 0 of the dataset is a dict; expected a pair"),
    ([(GREY, 0.5)], r"label 0 of the dataset is 0.5; expected one integer class"),
    ([(GREY, torch.tensor([torch.nan]))], r"label 0 of the dataset is tensor\(\[nan\]\)"),
    ([(GREY, None)], "label 0 of the dataset is None"),
    ([(GREY, torch.tensor([0, 1]))], "label 0 .*of a one-hot row"),
    ([], "dataset list is empty"),
    (Stream(), "dataset Stream .*no length"),
])  # fmt: skip
def test_what_is_no_labelled_image_is_refused(unchecked, dataset, said):
    with pytest.raises(DpmixError, match=said):
        read_images(dataset)


@pytest.mark.parametrize("image", [
    transforms.normalize(PIXELS[0] / 255, [0.5] * 3, [0.5] * 3), torch.full((1, 2, 2), torch.nan),
])  # fmt: skip
def test_floats_outside_of_the_stated_range_are_refused(image):
    with pytest.raises(DpmixError, match=r"outside of value_range 0..1"):
        read_images([(image, 0)], (0, 1))


class Shaken:
    """Random transforms of each kind of generator, as torchvision and others draw."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        draws = [torch.rand(1).item(), np.random.rand(), random.random()]
        return torch.tensor([int(255 * draw) for draw in draws], dtype=torch.uint8)[None, None], 0


def test_a_random_transform_hides_copies_so_there_is_a_warning():
    with pytest.warns(UserWarning, match="transform is random.*copies of an image can't be found"):
        read_images(Shaken(30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_images([(torch.zeros(1, 4, 4, dtype=torch.uint8), 0)] * 2)


@pytest.mark.filterwarnings("ignore:the dataset's transform is random")
@pytest.mark.usefixtures("unchecked")
def test_the_callers_seed_decides_no_draw_of_a_transform_and_its_generators_are_left_alone():
    def seeded():
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)

    seeded()
    untouched = (torch.rand(1), np.random.rand(), random.random())
    seeded()
    first, _ = read_images(Shaken(30))
    assert (torch.rand(1), np.random.rand(), random.random()) == untouched
    seeded()
    again, _ = read_images(Shaken(30))
    assert all(len(first[..., place].unique()) > 10 for place in range(3))
    assert all(not torch.equal(first[..., i], again[..., i]) for i in range(3))


@settings(deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "TIFF"]), st.sampled_from([None, *range(9)]))
def test_an_image_is_turned_upright_once(kind, tag):
    stream, tags = BytesIO(), Image.Exif()
    if tag is not None:
        tags[0x0112] = tag
    Image.fromarray(RGB[0]).save(stream, kind, exif=tags)
    right = ImageOps.exif_transpose(Image.open(stream))
    loaded = Image.open(stream)
    loaded.load()
    converted = Image.open(stream).convert("RGB")  # what torchvision's ImageFolder gives
    for image in (Image.open(stream), loaded, converted, right):
        for _ in range(2):  # it is not changed by being read
            pixels, _ = read_images([(image, 0)])
            assert np.array_equal(pixels[0].permute(1, 2, 0).numpy(), np.asarray(right))
