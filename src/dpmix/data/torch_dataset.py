"""A `torch.utils.data.Dataset` of (image, label) or (image, labels) pairs as pixels and labels.

An example depends on its own pair alone: no range, mean or size is taken from other images.
"""

import operator
import random
import secrets
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Subset

from dpmix.data.image import in_form, plain_channels, upright
from dpmix.data.label_values import label_matrix
from dpmix.data.source import Task
from dpmix.data.window import in_eight_bits
from dpmix.errors import DpmixError

Range = tuple[float, float]


# Checkable: the tests check annotations while the code runs.
@runtime_checkable
class PairDataset(Protocol):
    """What `torch.utils.data.Dataset` calls map-style: N pairs, fetched by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def read_images(
    dataset: PairDataset, value_range: Range | None = None, task: Task = "single-label"
) -> tuple[UInt8[Tensor, "N C H W"], Int64[Tensor, "N *L"]]:
    """Read every pair of `dataset` into memory, as 8-bit pixels and labels.

    The dataset's own random transforms are applied once, each with fresh random draws from the
    operating system: with a generator that the caller seeded, one more example would shift the
    known draws of later ones.

    Args:
        dataset: pairs of a PIL image (grey or RGB) or a tensor [C, H, W], and a whole number.
        value_range: the values of black and white in tensors of floats; None refuses floats.
        task: `multi-label` expects L labels instead of the number: 1, 0, and -1 or NaN where
            unknown.

    Raises:
        DpmixError: a `DataLoader`; no length or no example; an item that is no such pair; images of
            several sizes; floats without a range, or outside of it.
    """
    if isinstance(dataset, DataLoader):
        raise DpmixError(
            "dataset is a DataLoader, and no plan counts the draws of its "
            f"{type(dataset.sampler).__name__}; give loader.dataset, which is drawn by the plan's "
            "rate: unequal classes take weights (docs/unequal-classes.md)"
        )
    if not isinstance(dataset, PairDataset) or len(dataset) == 0:
        raise DpmixError(
            f"dataset {type(dataset).__name__} is empty, or has no length or no items by number; "
            "expected a map-style torch.utils.data.Dataset of (image, label) pairs"
        )
    read = _class if task == "single-label" else _labels
    first, label = _pair(dataset, 0, value_range, read)
    labels = torch.empty((len(dataset), *label.shape), dtype=torch.int64)
    pixels = torch.empty((len(dataset), *first.shape), dtype=torch.uint8)
    for index in range(len(dataset)):
        image, label = _pair(dataset, index, value_range, read)
        if image.shape != first.shape:
            raise DpmixError(
                f"image {index} of the dataset is {list(image.shape)} and image 0 "
                f"{list(first.shape)} [C, H, W]; expected one size: resize, crop and convert them "
                "in its transform"
            )
        if label.shape != labels.shape[1:]:
            raise DpmixError(
                f"image {index} of the dataset has {len(label)} labels and image 0 "
                f"{labels.shape[1]}; expected the same ones for each image"
            )
        pixels[index], labels[index] = image, label
    if not torch.equal(pixels[0], first):
        warnings.warn(
            "the dataset's transform is random: it was applied once to each image, and copies of "
            "an image can't be found by their pixels; leave it out: the views crop and mirror",
            stacklevel=4,
        )
    return pixels, labels


def example_origins(dataset: PairDataset) -> Int64[np.ndarray, " N"]:
    """Number the examples of `dataset`: two get one number where they are one example.

    `Subset` and `ConcatDataset` are seen through; elsewhere the place identifies an example.
    """
    numbers: dict[tuple[int, int], int] = {}
    origins = (_origin(dataset, index) for index in range(len(dataset)))
    return np.array([numbers.setdefault(one, len(numbers)) for one in origins], dtype=np.int64)


def _origin(dataset: Any, index: int) -> tuple[int, int]:
    while True:
        if index < 0:  # a Subset's indices may count from the end
            index += len(dataset)
        if isinstance(dataset, Subset):
            dataset, index = dataset.dataset, int(dataset.indices[index])
        elif isinstance(dataset, ConcatDataset):
            part = bisect_right(dataset.cumulative_sizes, index)
            before = dataset.cumulative_sizes[part - 1] if part else 0
            dataset, index = dataset.datasets[part], index - before
        else:
            return id(dataset), index


@contextmanager
def _fresh_draws() -> Iterator[None]:
    """Reseed the generators that transforms draw from, and restore them afterwards."""
    ours, torchs = random.getstate(), torch.get_rng_state()
    numpys = np.random.get_state()  # noqa: NPY002  (what transforms draw from)
    seed = secrets.randbits(32)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)  # noqa: NPY002
        torch.set_rng_state(torchs)


def _pair(
    dataset: PairDataset, index: int, value_range: Range | None, read: Callable[..., Tensor]
) -> tuple[UInt8[Tensor, "C H W"], Int64[Tensor, "*L"]]:
    with _fresh_draws():
        item = dataset[index]
    name = f"image {index} of the dataset"
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DpmixError(
            f"item {index} of the dataset is a {type(item).__name__}; expected a pair (image, "
            "label): wrap the dataset in one that returns pairs"
        )
    image, label = item
    if isinstance(image, Image.Image):
        pixels = _from_pil(image, name)
    elif isinstance(image, Tensor):
        pixels = _from_tensor(image, name, value_range)
    else:
        raise DpmixError(
            f"{name} is a {type(image).__name__}; expected a PIL image or a tensor [C, H, W]: an "
            "array [H, W] or [H, W, 3] of uint8 becomes one by Image.fromarray(image)"
        )
    what = "label" if read is _class else "labels"
    return pixels, read(label, f"{what} {index} of the dataset")


def _from_pil(image: Image.Image, name: str) -> UInt8[Tensor, "C H W"]:
    channels = plain_channels(image)
    if channels is None:
        deep = image.mode in ("I", "F") or image.mode.startswith("I;")
        remedy = f"Image.fromarray({in_eight_bits('image')})" if deep else "image.convert('RGB')"
        raise DpmixError(
            f"{name} is {image.mode}; expected 8-bit grey or RGB: give {remedy}, or the same in "
            "its transform"
        )
    turned = upright(image)
    return torch.tensor(in_form(turned, (channels, turned.height, turned.width)))


def _from_tensor(
    image: Shaped[Tensor, "*shape"], name: str, value_range: Range | None
) -> UInt8[Tensor, "C H W"]:
    shape = list(image.shape)
    if len(shape) != 3 or shape[0] not in (1, 3) or 0 in shape:
        raise DpmixError(f"{name} has shape {shape}; expected [C, H, W] with C 1 or 3")
    if image.dtype == torch.uint8:
        return image
    if value_range is None or not image.is_floating_point():
        raise DpmixError(
            f"{name} is {image.dtype}, whose range is not known; expected uint8: leave ToTensor "
            "and Normalize out of its transform, or give image.float() and the values of black "
            "and white, fixed beforehand: value_range=(0, 1)"
        )
    low, high = value_range
    if not low <= image.min() <= image.max() <= high:
        raise DpmixError(
            f"{name} has values outside of value_range {low:g}..{high:g}; leave Normalize out of "
            "its transform (the views normalise), or state another range"
        )
    return ((image.double() - low) / (high - low) * 255).round().to(torch.uint8)


def _class(label: object, name: str) -> Int64[Tensor, ""]:
    value = label  # MedMNIST gives arrays of one element
    if isinstance(value, Tensor | np.ndarray) and value.shape in ((), (1,)):
        value = value.item()
    if isinstance(value, float | np.floating) and value.is_integer():
        value = int(value)
    try:
        return torch.tensor(operator.index(value))  # type: ignore[arg-type]
    except TypeError:
        raise DpmixError(
            f"{name} is {label!r:.40}; expected one integer class: of text, CLASSES.index(label) "
            "with CLASSES fixed beforehand; of a one-hot row, label.argmax(); of several labels, "
            "give task='multi-label'"
        ) from None


def _labels(labels: object, name: str) -> Int64[Tensor, " L"]:
    try:
        # Half precision of torch is unknown to numpy.
        row = labels.double().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
        if row.ndim != 1 or not len(row):
            raise ValueError
    except (TypeError, ValueError, RuntimeError):
        raise DpmixError(
            f"{name} is {labels!r:.40}; expected a row of labels: 1, 0, and -1 or NaN where "
            "unknown; of one class, leave task='multi-label' out"
        ) from None
    names = [str(place) for place in range(len(row))]
    return label_matrix(row[None], names, name, lambda _: "")[0]
