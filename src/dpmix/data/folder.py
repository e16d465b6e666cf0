"""Image folders: `root/{train,test}/<class>/*`, or `root/<class>/*` with a test fraction."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.encoded import EncodedImages
from dpmix.data.folder_listing import list_classes, no_class_folders, visible
from dpmix.data.options import ReadOptions
from dpmix.data.splits import Splits, hashed_split
from dpmix.errors import DpmixError

_SIDES = ("train", "test")
TEST_FRACTION = 0.2


def folder_splits(root: Path, options: ReadOptions, test_fraction: float | None) -> Splits:
    """Read both splits; classes are named and numbered by their sorted folder names.

    With `test_fraction` every file decides by its own path whether it is a test file, see
    `hashed_split`.

    Raises:
        DpmixError: the layout and `test_fraction` do not fit each other, train and test classes
            differ, and as `list_classes` and `decode_sources` raise.
    """
    _check_folder(root)
    sides = [entry.name for entry in visible(root, root) if entry.name in _SIDES and entry.is_dir()]
    if sides:
        names, parts = _given_split(root, sides, test_fraction)
        held_out = "the test folder"
    else:
        share = TEST_FRACTION if test_fraction is None else test_fraction
        held_out = f"{100 * share:g}% of the files, each by the hash of its path"
        names, parts = _drawn_split(root, test_fraction)
    (train, test), corrupt = decode_sources(parts, names, options)
    return Splits(
        root.resolve().name, train, test, flip=True, skipped=len(corrupt), held_out=held_out
    )


def class_folders(root: Path) -> tuple[tuple[str, ...], EncodedPart]:
    """List `root/<class>/*` without a split, such as a public pool: class names, encoded images.

    Raises:
        DpmixError: as `list_classes` raises.
    """
    _check_folder(root)
    return _part(root, root)


def class_folder_names(root: Path) -> tuple[str, ...]:
    """The class names of `root/{train,test}/<class>/` or `root/<class>/`; no file is looked at.

    Raises:
        DpmixError: no such folder, or no class folders in it.
    """
    _check_folder(root)
    folder = root / "train" if (root / "train").is_dir() else root
    names = tuple(entry.name for entry in visible(folder, root) if entry.is_dir())
    if not names:
        raise no_class_folders(folder)
    return names


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise DpmixError(f"no folder '{root}'; expected a folder of images: check the path")


def _given_split(
    root: Path, sides: list[str], test_fraction: float | None
) -> tuple[tuple[str, ...], list[EncodedPart]]:
    for side in _SIDES:
        if side not in sides:
            raise DpmixError(
                f"data folder '{root}' has '{sides[0]}' but no '{side}' folder; expected both, or "
                "class folders with --test-fraction"
            )
    if test_fraction is not None:
        raise DpmixError(
            f"--test-fraction {test_fraction} does not apply: data folder '{root}' has a train and "
            "a test folder; leave it out"
        )
    (names, train), (test_names, test) = (_part(root / side, root) for side in _SIDES)
    if names != test_names:
        differ = sorted(set(names) ^ set(test_names))
        raise DpmixError(
            f"data folder '{root}': class {', '.join(differ)} is in one of train and test only; "
            "expected the same class folders in both"
        )
    return names, [train, test]


def _drawn_split(
    root: Path, test_fraction: float | None
) -> tuple[tuple[str, ...], list[EncodedPart]]:
    names, whole = _part(root, root)
    if test_fraction is None:
        test_fraction = TEST_FRACTION
        warnings.warn(
            f"data folder '{root}' has no train and test folders: one image in five, by the hash "
            "of its path, is held out for testing, and the guarantee does not cover those; "
            "--test-fraction sets the share",
            stacklevel=2,
        )
    is_test = hashed_split(whole.images.names, test_fraction)
    return names, [_taken(whole, side.nonzero().flatten()) for side in (~is_test, is_test)]


def _part(folder: Path, root: Path) -> tuple[tuple[str, ...], EncodedPart]:
    """The class names and all images of `folder`, named by their posix path relative to `root`."""
    classes = list_classes(folder, root)
    paths = tuple(path for images in classes.values() for path in images)
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    counts = torch.tensor([len(images) for images in classes.values()])
    labels = torch.arange(len(classes)).repeat_interleave(counts)
    return tuple(classes), EncodedPart(EncodedImages(names, paths), labels)


def _taken(part: EncodedPart, indices: Tensor) -> EncodedPart:
    return EncodedPart(part.images.take(indices), part.labels[indices])
