"""Image folders: `root/{train,test}/<class>/*`, or `root/<class>/*` with a test fraction.

Everything is sorted, so that every machine sees the same order. Nothing is read that a symbolic
link reaches outside the data's root. The suffix alone says what is an image, and a warning counts
the files that are none. The names of class folders count as public.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.dicom import is_dicom
from dpmix.data.image import ReadOptions
from dpmix.data.person_rule import PersonRule
from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits, hashed_split, judged_side, named_sides, plain_name, side_of
from dpmix.errors import DpmixError, one_line

TEST_FRACTION = 0.2
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".dcm", ".dicom",
})  # fmt: skip
_RUNNING = re.compile(r"(.*[^\W_])[-_ .]+\d+\.\w+", re.DOTALL)  # a stem, a number, a suffix
LITTER = frozenset({"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "dicomdir"})
"""What systems leave among images, in any case of their letters."""
_TO_RENAME = "DICOM files whose names do not end in .dcm"


def folder_splits(
    root: Path,
    options: ReadOptions,
    test_fraction: float | None,
    rule: PersonRule | None = None,
) -> Splits:
    """Read both splits; classes are named and numbered by their sorted folder names.

    Args:
        root: the data folder.
        options: how images are read.
        test_fraction: expected share of test files, in (0, 1), see `hashed_split`; None: folders
            called train and test (see `side_of`) are splits, else one file in five is a test file.
        rule: the person of every file; a drawn split then keeps a person's files together.

    Raises:
        DpmixError: a layout that does not fit, a symbolic link that is broken, leaves `root` or
            puts a file into both splits, and as `decode_sources` raises.
    """
    folders = folder_names(root)
    inner = _inner_folders(root, folders)
    if test_fraction is None and inner:
        names, train, test, held_out = _given_split(root, folders, inner, rule is not None)
        if rule is not None:
            train, test = (replace(side, owners=rule.of(side.names)) for side in (train, test))
    else:
        if any(inner.values()):
            raise DpmixError(
                f"--test-fraction {test_fraction} does not apply to data folder '{root}', which "
                "holds splits; leave it out, or give one of its folders as --data"
            )
        names, whole = class_folders(root, deep=rule is not None)
        train, test, held_out = drawn_split(root, whole, test_fraction, rule)
    refuse_linked_twice(root, train, test)
    (train_source, test_source), _ = decode_sources([train, test], names, options)
    return Splits(root.resolve().name, train_source, test_source, flip=True, held_out=held_out)


def holds_training_images(root: Path) -> bool:
    """Whether `root` has a folder that is called train."""
    return "train" in named_sides(folder_names(root), f"data folder '{root}'")


def folder_images(root: Path, options: ReadOptions) -> ImageSource:
    """All images of a folder without a training split, to evaluate on.

    Raises:
        DpmixError: as `folder_splits`.
    """
    side = judged_side(named_sides(folder_names(root), f"data folder '{root}'"), f"'{root}'")
    names, images, left_out = _class_images(root / side if side else root, root, False)
    warn_of_left_out(left_out)
    (source,), _ = decode_sources([images], names, options)
    return source


def refuse_linked_twice(root: Path, train: EncodedImages, test: EncodedImages) -> None:
    """Refuse a file that a symbolic link puts into both splits."""
    ours, others = ({Path.resolve(root / name) for name in one.names} for one in (train, test))
    if both := sorted(ours & others):
        raise DpmixError(
            f"data folder '{root}': '{both[0]}' is a training and a test image, by a link; "
            "expected splits that share no file: remove the link"
        )


def _inner_folders(root: Path, folders: list[str]) -> dict[str, list[str]]:
    """Return the folders in each of `folders` that is named as a split; some must hold classes."""
    inner = {name: folder_names(root / name, root) for name in folders if side_of(name)}
    if inner and len(inner) == len(folders) and not any(inner.values()):
        raise DpmixError(
            f"data folder '{root}' has splits without class folders: {', '.join(folders)}; "
            f"expected one folder of images per class in each, such as {folders[0]}/cats"
        )
    return inner


_Read = tuple[tuple[str, ...], EncodedImages, EncodedImages, str]  # names, train, test, held_out


def _given_split(root: Path, folders: list[str], inner: dict[str, list[str]], deep: bool) -> _Read:
    where = f"data folder '{root}'"
    sides = named_sides(folders, where)
    train, test = sides.get("train"), judged_side(sides, where)
    if train is None or test is None or not all(inner.values()):
        raise DpmixError(
            f"{where} holds {', '.join(folders)}; expected a train and a test (or val) folder with "
            "one folder of images per class in each, or a share of one folder of classes, which "
            "may have any name: --data FOLDER --test-fraction 0.2"
        )
    if others := [name for name in folders if name not in inner]:
        warnings.warn(f"{where}: no split, so left out: {', '.join(others)}", stacklevel=3)
    names, train_images, left_out = _class_images(root / train, root, deep)
    test_names, test_images, more = _class_images(root / test, root, deep)
    if alone := sorted({*names} ^ {*test_names}):
        raise DpmixError(
            f"{where}: class {', '.join(alone)} is in one of '{train}' and '{test}' only; expected "
            "the same class folders in both: add the missing one, or remove it"
        )
    warn_of_left_out([*left_out, *more])
    return names, train_images, test_images, f"the {test} folder"


def drawn_split(
    root: Path, whole: EncodedImages, test_fraction: float | None, rule: PersonRule | None
) -> tuple[EncodedImages, EncodedImages, str]:
    """Draw the test images of `whole` by hashes; return train, test, and how, in words."""
    owners = None if rule is None else rule.of(whole.names)
    one, what = ("image", "path") if owners is None else ("person", "name")
    if test_fraction is None:
        test_fraction = TEST_FRACTION
        warnings.warn(
            f"data folder '{root}' has no train and test folders: one {one} in five, by the hash "
            f"of its {what}, is held out for testing, and the guarantee does not cover those; "
            "--test-fraction sets the share",
            stacklevel=3,
        )
    if owners is None and (stem := _numbered(whole.names)):
        warnings.warn(
            f"files such as '{stem}' look like several images of one person, who may then have "
            "training and test images, which makes the accuracy look better than it is; name the "
            "persons with --persons or --person-pattern",
            stacklevel=3,
        )
    is_test = hashed_split(whole.names if owners is None else owners, test_fraction)
    whole = replace(whole, owners=owners)
    train, test = (whole.take(side.nonzero().flatten()) for side in (~is_test, is_test))
    held_out = f"{100 * test_fraction:g}% of the {one}s, each by the hash of its {what}"
    if owners is None:
        held_out = f"{100 * test_fraction:g}% of the files, each by the hash of its path"
    return train, test, held_out


def _numbered(names: Sequence[str]) -> str | None:
    """A file of many whose names differ in a running number alone, such as p7_1.png and p7_2.png.

    The class folder does not count. A set that is only numbered has few stems.
    """
    found = [match for name in names if (match := _RUNNING.fullmatch(name.rpartition("/")[2]))]
    stems = Counter(match[1] for match in found)
    several = [match[0] for match in found if stems[match[1]] > 1]
    return several[0] if len(several) > len(names) / 2 and len(stems) > len(names) / 20 else None


def class_folders(root: Path, *, deep: bool = False) -> tuple[tuple[str, ...], EncodedImages]:
    """Return the class names and images of `root/<class>/*`, such as a public pool.

    `deep` also takes images in folders of a class folder, such as one for each person.
    """
    names, images, left_out = _class_images(root, root, deep)
    warn_of_left_out(left_out)
    return names, images


def class_folder_names(root: Path) -> tuple[str, ...]:
    """Return the class names of `root/{train,test}/<class>` or `root/<class>`; no file is read."""
    folders = folder_names(root)
    named_sides(folders, f"data folder '{root}'")
    names = next(filter(None, _inner_folders(root, folders).values()), folders)
    if not names:
        raise _no_class_folders(root)
    return tuple(sorted({plain_name(name) for name in names}))


def list_images(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files in and below `root`, and the files that are no images, sorted."""
    return _sorted_by_suffix(sorted(_below(root, root, (root.resolve(),))))


def warn_of_left_out(files: Sequence[Path]) -> None:
    """Warn once of files that are no images by their suffix."""
    if files:
        counts = Counter(_kind(file) for file in files)
        kinds = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))
        dicom = _TO_RENAME in counts
        convert = "rename DICOM files to NAME.dcm, and convert others" if dicom else "convert them"
        warnings.warn(
            f"{len(files)} file(s) are left out ({kinds}), such as '{files[0]}'; to use them, "
            f"{convert} to one of {', '.join(sorted(SUFFIXES))}",
            stacklevel=2,
        )


def _kind(file: Path) -> str:
    """What a file that is left out is: DICOM files are often named by numbers alone."""
    try:
        with file.open("rb") as stream:
            if is_dicom(stream):
                return _TO_RENAME
    except OSError:  # it is left out, and need not be readable
        pass
    return file.suffix.lower() or "no suffix"


def local_path(text: str) -> Path:
    """Return `text` as a path, its ~ expanded, that can be looked at; nothing may be there."""
    try:
        path = Path(text).expanduser()
        path.exists()
    # RuntimeError: the home folder of no known user.
    except (RuntimeError, OSError) as error:
        raise DpmixError(
            f"'{text}' cannot be looked at ({one_line(error)}); expected a path: check it, and the "
            "permissions of the folders around it"
        ) from None
    return path


def _sorted_by_suffix(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    found: tuple[list[Path], list[Path]] = ([], [])
    for file in files:
        found[file.suffix.lower() not in SUFFIXES].append(file)
    return found


def _class_images(
    folder: Path, root: Path, deep: bool
) -> tuple[tuple[str, ...], EncodedImages, list[Path]]:
    """Return class names, images named by their path relative to `root`, and other files."""
    folders, files = _entries(folder, root)
    classes: dict[str, Path] = {}
    for entry in folders:
        name = plain_name(entry.name)
        if name in classes:
            raise DpmixError(
                f"'{folder}' has two folders '{name}' that differ only in their Unicode form; "
                "expected one folder per class: merge them"
            )
        classes[name] = entry
    if not classes:
        raise _no_class_folders(folder)
    if loose := _sorted_by_suffix(files)[0]:
        text = f"{len(loose)} image(s) lie in no class folder and are left out, such as"
        warnings.warn(f"{text} '{loose[0]}'", stacklevel=2)
    listed = [_images_of_class(classes[name], root, deep) for name in sorted(classes)]
    paths = tuple(path for images, _ in listed for path in images)
    names = tuple(path.relative_to(root).as_posix() for path in paths)
    labels = torch.tensor([label for label, (images, _) in enumerate(listed) for _ in images])
    others = [path for _, more in listed for path in more]
    return tuple(sorted(classes)), EncodedImages(names, paths, labels), others


def _images_of_class(folder: Path, root: Path, deep: bool) -> tuple[list[Path], list[Path]]:
    folders, files = _entries(folder, root)
    if deep:
        folders, files = [], sorted(_below(folder, root, (folder.resolve(),)))
    images, others = _sorted_by_suffix(files)
    if folders or not images:
        if to_rename := [file for file in others if not folders and _kind(file) == _TO_RENAME]:
            raise DpmixError(
                f"class folder '{folder}' holds no images but {len(to_rename)} {_TO_RENAME}, such "
                f"as '{to_rename[0].name}'; rename them to NAME.dcm"
            )
        found = f"a folder, '{folders[0].name}'" if folders else "no images"
        raise DpmixError(
            f"class folder '{folder}' holds {found}; expected image files only, as in "
            f"train/cats/1.png or cats/1.png: give '{folder}' as --data if it holds classes or "
            f"splits; images end in {', '.join(sorted(SUFFIXES))}"
        )
    return images, others


def _below(folder: Path, root: Path, around: tuple[Path, ...]) -> Iterator[Path]:
    """The files in and below `folder`; `around` is it and the folders that led to it, resolved."""
    folders, files = _entries(folder, root)
    yield from files
    for entry in folders:
        target = entry.resolve()
        if target in around:
            raise DpmixError(
                f"'{entry}' is a symbolic link to a folder that holds it; expected no loop: "
                "remove it"
            )
        yield from _below(entry, root, (*around, target))


def folder_names(folder: Path, root: Path | None = None) -> list[str]:
    """The folders in `folder`, which lies in the data folder `root`, sorted."""
    return [entry.name for entry in _entries(folder, root or folder)[0]]


def _entries(folder: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """Return the folders and the files in `folder`, sorted, without hidden names and litter."""
    folders: list[Path] = []
    files: list[Path] = []
    try:
        for entry in sorted(folder.iterdir()):
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            if entry.is_symlink():
                _check_link(entry, root)
            if entry.is_dir():
                folders.append(entry)
            elif entry.is_file():
                files.append(entry)
            else:  # a pipe would wait for ever for something to write into it
                raise DpmixError(f"'{entry}' is no file; expected image files only: remove it")
    except OSError as error:
        raise DpmixError(
            f"'{folder}' cannot be read ({error.strerror}); expected a folder that can be listed, "
            "with all in it: check its permissions, and that it is there"
        ) from error
    return folders, files


def _check_link(entry: Path, root: Path) -> None:
    try:
        inside = entry.resolve(strict=True).is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link to itself
        inside = False
    if not inside:
        raise DpmixError(
            f"'{entry}' is a symbolic link that is broken or leads out of the data folder "
            f"'{root}'; expected files inside it: copy the target in, or remove the link"
        )


def _no_class_folders(folder: Path) -> DpmixError:
    return DpmixError(
        f"data folder '{folder}' holds no class folders; expected one folder of images per "
        "class, such as cats/ and dogs/"
    )
