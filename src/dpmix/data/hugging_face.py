"""`hf:NAME`: data sets of the library `datasets`, from the hub's local cache or a folder.

Guarantees: nothing is downloaded unless asked for, no code of a data set is run, and the encoded
images stay in the library's memory-mapped files: a set larger than memory can be read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.encoded import EncodedImages
from dpmix.data.options import ReadOptions
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError, one_line
from dpmix.extras import to_install

PREFIX = "hf:"
TEST_NAMES = ("test", "validation", "valid", "val")


def hugging_face_splits(name: str, options: ReadOptions, download: bool) -> Splits:
    """Load the train and test (or validation) split of the data set `name`.

    Args:
        name: on the hub, as owner/name, or a folder that `datasets.load_dataset` reads, as a path
            that can't be taken for a name on the hub.
        options: how images are read.
        download: fetch what the local cache lacks.

    Raises:
        DpmixError: `datasets` is missing, the set is not there or can't be fetched, it has no train
            and test split, not one column of images and one of classes, the name is one of the hub
            and of a folder too, and as `decode_sources` raises.
    """
    if is_hub_name(name) and Path(name).exists():
        raise DpmixError(
            f"data '{PREFIX}{name}' is a name on the hub, and there is a folder '{name}' too; give "
            f"'{PREFIX}./{name}' for the folder, or rename the folder"
        )
    sides = _loaded(name, download)
    test = next((side for side in TEST_NAMES if side in sides), None)
    if "train" not in sides or test is None:
        raise DpmixError(
            f"data set '{PREFIX}{name}' has the splits {', '.join(sides)}; expected 'train' and "
            f"one of {', '.join(TEST_NAMES)}"
        )
    image, label, classes = _columns(name, sides["train"])
    parts = [_part(sides[side], side, image, label) for side in ("train", test)]
    (train_source, test_source), corrupt = decode_sources(parts, classes, options)
    title = Path(name).name
    return Splits(title, train_source, test_source, flip=True, skipped=len(corrupt))


def is_hub_name(name: str) -> bool:
    """Whether `name` is one on the hub, as owner/name, and no path."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name) is not None


def _loaded(name: str, download: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise DpmixError(
            f"data '{PREFIX}{name}' needs the package datasets: {to_install('hub')}"
        ) from None
    datasets.disable_progress_bars()
    try:
        with _offline(datasets, not download):
            sides = datasets.load_dataset(name)
    # A hub that is not reached and a set that is damaged raise errors of many kinds.
    except Exception as error:
        remedy = "check the name and the network" if download else "give --download to fetch it"
        raise DpmixError(
            f"data set '{PREFIX}{name}' can't be loaded ({one_line(error)}); {remedy}, or give the "
            "folder of a copy"
        ) from error
    return sides


@contextmanager
def _offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Have the library look in its cache alone."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _columns(name: str, side: Any) -> tuple[str, str, tuple[str, ...]]:
    """The names of the image and the class column, and the classes."""
    import datasets

    images = [key for key, kind in side.features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in side.features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(labels) > 1 and "label" in labels:
        labels = ["label"]
    if len(images) != 1 or len(labels) != 1:
        raise DpmixError(
            f"data set '{PREFIX}{name}' has the image columns {images} and the class columns "
            f"{labels}; expected one of each: prepare a copy with both"
        )
    return images[0], labels[0], tuple(side.features[labels[0]].names)


def _part(side: Any, name: str, image: str, label: str) -> EncodedPart:
    import datasets

    encoded = side.cast_column(image, datasets.Image(decode=False)).with_format("arrow")
    contents: list[Path | memoryview] = []
    for chunk in encoded.data.column(image).chunks:
        for data, path in zip(chunk.field("bytes"), chunk.field("path"), strict=True):
            # A view into the mapped file: nothing is copied.
            contents.append(memoryview(data.as_buffer()) if data.is_valid else Path(path.as_py()))
    names = tuple(f"{name}[{i}]" for i in range(len(contents)))
    return EncodedPart(EncodedImages(names, tuple(contents)), torch.tensor(side[label]))
