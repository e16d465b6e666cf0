"""Image folders: `root/{train,test}/<class>/*`, or `root/<class>/*` with a test fraction."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.decode_pool import EncodedImages
from dpmix.data.folder_listing import (
    folders_of,
    list_classes,
    no_class_folders,
    visible,
    warn_of_left_out,
)
from dpmix.data.image import ReadOptions
from dpmix.data.split_names import Side, judged_side, named_sides, plain_name, side_of
from dpmix.data.splits import Splits, hashed_split
from dpmix.errors import DpmixError

TEST_FRACTION = 0.2


def folder_splits(root: Path, options: ReadOptions, test_fraction: float | None) -> Splits:
    """Read both splits; classes are named and numbered by their sorted folder names.

    Folders called train and test (or validation, or alike: `side_of`) are splits. With
    `test_fraction` every folder is a class, whatever it is called, and every file decides by its
    own path whether it is a test file, see `hashed_split`.

    Raises:
        DpmixError: the layout and `test_fraction` do not fit each other, train and test classes
            differ, links put a file into both splits, and as `list_classes` and `decode_sources`
            raise.
    """
    folders = _folders(root, root)
    if test_fraction is None and any(side_of(name) for name in folders):
        names, parts, left_out, held_out = _given_split(root, folders)
    else:
        names, parts, left_out, held_out = _drawn_split(root, folders, test_fraction)
    _refuse_shared(parts[0], parts[1], f"data folder '{root}'")
    warn_of_left_out(left_out)
    (train, test), _ = decode_sources(parts, names, options)
    return Splits(root.resolve().name, train, test, flip=True, held_out=held_out)


def class_folders(root: Path) -> tuple[tuple[str, ...], EncodedPart]:
    """List `root/<class>/*` without a split, such as a public pool: class names, encoded images.

    Raises:
        DpmixError: as `list_classes` raises.
    """
    _check_folder(root)
    names, part, left_out = _part(root, root)
    warn_of_left_out(left_out)
    return names, part


def class_folder_names(root: Path) -> tuple[str, ...]:
    """The class names of `root/{train,test}/<class>/` or `root/<class>/`; no file is looked at.

    Raises:
        DpmixError: no such folder, no class folders in it, or two folders of one split.
    """
    folders = _folders(root, root)
    sides = named_sides(folders, f"data folder '{root}'")
    splits = [_folders(root / sides[side], root) for side in ("train", "test", "val")
              if side in sides]  # fmt: skip
    inner = next(filter(None, splits), None)
    if inner is None:
        _refuse_splits_as_classes(root, folders)
    names = tuple(sorted({plain_name(name) for name in inner or folders}))
    if not names:
        raise no_class_folders(root)
    return names


def _folders(folder: Path, root: Path) -> list[str]:
    _check_folder(folder)
    return [entry.name for entry in folders_of(visible(folder, root))]


def _check_folder(root: Path) -> None:
    if not root.is_dir():
        raise DpmixError(f"no folder '{root}'; expected a folder of images: check the path")


_Read = tuple[tuple[str, ...], list[EncodedPart], list[Path], str]


"""Class names, the training and test part, the files that are no images, `Splits.held_out`."""


def _given_split(root: Path, folders: list[str]) -> _Read:
    where = f"data folder '{root}'"
    sides = named_sides(folders, where)
    _refuse_without_classes(root, folders, sides)
    if "train" not in sides:
        found = ", ".join(f"'{name}'" for name in sides.values())
        raise DpmixError(
            f"{where} has {found} but no 'train' folder; expected one next to it: add it"
        )
    if len(sides) == 1:
        inner = root / sides["train"]
        raise DpmixError(
            f"{where} has '{inner.name}' but no 'test' folder; expected one next to it, called "
            f"test or val: add it, or hold out a share: --data {inner} --test-fraction 0.2"
        )
    train, test = sides["train"], judged_side(sides, where)
    assert test is not None
    if others := [name for name in folders if side_of(name) is None]:
        warnings.warn(f"{where}: no split, so left out: {', '.join(others)}", stacklevel=3)
    names, train_part, left_out = _part(root / train, root)
    test_names, test_part, more = _part(root / test, root)
    for here, there, side in ((names, test_names, train), (test_names, names, test)):
        if alone := sorted(set(here) - set(there)):
            raise DpmixError(
                f"{where}: class {', '.join(alone)} is in '{side}' only; expected the same class "
                f"folders in '{train}' and '{test}': add the missing one, or remove it"
            )
    return names, [train_part, test_part], [*left_out, *more], f"the {test} folder"


def _refuse_shared(train: EncodedPart, test: EncodedPart, where: str) -> None:
    """Refuse a file that links put into both splits: it is judged on without protection."""
    ours = {path.resolve(): name for name, path in _files(train)}
    for name, path in _files(test):
        if (other := ours.get(path.resolve())) is not None:
            raise DpmixError(
                f"{where}: '{name}' is the training image '{other}', by a symbolic link; expected "
                "splits that share no file: remove the link"
            )


def _files(part: EncodedPart) -> Iterator[tuple[str, Path]]:
    for name, content in zip(part.images.names, part.images.contents, strict=True):
        assert isinstance(content, Path)
        yield name, content


def _drawn_split(root: Path, folders: list[str], test_fraction: float | None) -> _Read:
    _refuse_splits_as_classes(root, folders)
    for name in folders:
        if side_of(name) and _folders(root / name, root):
            raise DpmixError(
                f"--test-fraction {test_fraction} does not apply: '{name}' in data folder '{root}' "
                f"is a split with class folders; leave it out, or give --data {root / name}"
            )
    names, whole, left_out = _part(root, root)
    if test_fraction is None:
        test_fraction = TEST_FRACTION
        warnings.warn(
            f"data folder '{root}' has no train and test folders: one image in five, by the hash "
            "of its path, is held out for testing, and the guarantee does not cover those; "
            "--test-fraction sets the share",
            stacklevel=3,
        )
    is_test = hashed_split(whole.images.names, test_fraction)
    parts = [_taken(whole, side.nonzero().flatten()) for side in (~is_test, is_test)]
    held_out = f"{100 * test_fraction:g}% of the files, each by the hash of its path"
    return names, parts, left_out, held_out


def _refuse_without_classes(root: Path, folders: list[str], sides: Mapping[Side, str]) -> None:
    """Refuse a split that holds no class folders, with what helps in its case."""
    inner = {side: _folders(root / name, root) for side, name in sides.items()}
    flat = [sides[side] for side, held in inner.items() if not held]
    if not flat:
        return
    _refuse_splits_as_classes(root, folders)
    said = f"data folder '{root}': '{flat[0]}' is the name of a split but holds no class folders"
    if not any(inner.values()):
        raise DpmixError(
            f"{said}; if it is a class, give --test-fraction 0.2: then every folder is a class"
        )
    share = f": --data {root / sides['train']} --test-fraction 0.2" if inner.get("train") else ""
    raise DpmixError(
        f"{said}; expected one folder of images per class in it: sort its images into such, or "
        f"leave it out and test on a share of the others{share}"
    )


def _refuse_splits_as_classes(root: Path, folders: list[str]) -> None:
    """Refuse a folder of splits alone that hold no class folders: there are no classes."""
    if not folders or not all(side_of(name) for name in folders):
        return
    if not any(_folders(root / name, root) for name in folders):
        raise DpmixError(
            f"data folder '{root}' has splits without class folders: {', '.join(folders)}; "
            f"expected one folder of images per class in each, such as {folders[0]}/cats and "
            f"{folders[0]}/dogs"
        )


def _part(folder: Path, root: Path) -> tuple[tuple[str, ...], EncodedPart, list[Path]]:
    """Class names, images of `folder` named by their posix path relative to `root`, other files."""
    classes, left_out = list_classes(folder, root)
    paths = tuple(path for images in classes.values() for path in images)
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    counts = torch.tensor([len(images) for images in classes.values()])
    labels = torch.arange(len(classes)).repeat_interleave(counts)
    return tuple(classes), EncodedPart(EncodedImages(names, paths), labels), left_out


def _taken(part: EncodedPart, indices: Tensor) -> EncodedPart:
    return EncodedPart(part.images.take(indices), part.labels[indices])
