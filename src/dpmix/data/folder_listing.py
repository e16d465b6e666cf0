"""The path that a text on the command line means."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dpmix.data.split_names import plain_name, side_of
from dpmix.errors import DpmixError

# The image files of a folder: of classes for training and pools, of any depth for prediction.
#
# Guarantees: sorted, so every machine sees the same order; nothing hidden and no known litter;
# nothing that a symbolic link reaches outside the data's root; a file is taken or left out for its
# own name alone, and what is left out is returned. The names of class folders count as public.


SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff",
    ".gif", ".ppm", ".pgm", ".pbm", ".pnm",
})  # fmt: skip


"""Of the formats that are opened (`data/pixels.py`), in any case of their letters."""


LITTER = frozenset({"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini"})


"""What systems leave among images, in any case; passed over in silence, as hidden names are."""


_SUFFIXES_SHOWN = 5


def list_classes(folder: Path, root: Path) -> tuple[dict[str, tuple[Path, ...]], list[Path]]:
    """Return the image files of every class folder in `folder`, and the files that are no images.

    Both are sorted by name; the suffix says what is an image. Files next to the class folders are
    left alone; a warning counts the images among them.

    Args:
        folder: holds one folder per class.
        root: what no symbolic link may leave.

    Raises:
        DpmixError: no class folders, two of one name, one without images or with folders or pipes
            in it, a folder that cannot be read, or a symbolic link that is broken or leaves `root`.
    """
    entries = visible(folder, root)
    classes: dict[str, Path] = {}
    for entry in folders_of(entries):
        name = plain_name(entry.name)
        if name in classes:
            raise DpmixError(
                f"'{folder}' has two folders '{name}' that differ only in their Unicode form; "
                "expected one folder per class: merge them"
            )
        classes[name] = entry
    if not classes:
        raise no_class_folders(folder)
    loose = [entry for entry in entries if is_image(entry) and entry.is_file()]
    if loose:
        warnings.warn(
            f"{len(loose)} image(s) in '{folder}' lie in no class folder and are left out, such as "
            f"'{loose[0].name}'",
            stacklevel=2,
        )
    images: dict[str, tuple[Path, ...]] = {}
    others: list[Path] = []
    for name in sorted(classes):
        images[name], more = _images_of_class(classes[name], root)
        others += more
    return images, others


def list_images(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files in and below `root`, and the files that are no images, sorted.

    Raises:
        DpmixError: as `list_classes` raises, and for a symbolic link to a folder that holds it.
    """
    files = list(_below(root, root, (root.resolve(),)))
    return [file for file in files if is_image(file)], [f for f in files if not is_image(f)]


def warn_of_left_out(files: Sequence[Path]) -> None:
    """Say in one warning how many `files` are no images by their suffix, and of which kinds."""
    if files:
        warnings.warn(
            f"{len(files)} file(s) are left out, such as '{files[0]}': {_kinds(files)}; to use "
            f"them, convert them to one of {', '.join(sorted(SUFFIXES))}",
            stacklevel=2,
        )


def is_image(path: Path) -> bool:
    """Whether `path` is that of an image, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def no_class_folders(folder: Path) -> DpmixError:
    """The error for a folder without class folders."""
    return DpmixError(
        f"data folder '{folder}' holds no class folders; expected one folder of images per "
        "class, such as cats/ and dogs/"
    )


def visible(folder: Path, root: Path) -> list[Path]:
    """Return what `folder` holds, sorted, hidden names and `LITTER` left out.

    Raises:
        DpmixError: `folder` cannot be read, or a symbolic link is broken or leaves `root`.
    """
    with _readable(folder):
        entries = sorted(
            entry
            for entry in folder.iterdir()
            if not entry.name.startswith(".") and entry.name.lower() not in LITTER
        )
        _check_links(entries, root)
    return entries


def folders_of(entries: Iterable[Path]) -> list[Path]:
    """Those of `entries` that are folders.

    Raises:
        DpmixError: one that may not be looked at.
    """
    folders = []
    for entry in entries:
        with _readable(entry):
            if entry.is_dir():
                folders.append(entry)
    return folders


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DpmixError(
            f"'{path}' cannot be read ({error.strerror}); expected a folder that can be listed, "
            "with all in it: check its permissions, and that it is there"
        ) from error


def _images_of_class(folder: Path, root: Path) -> tuple[tuple[Path, ...], list[Path]]:
    entries = visible(folder, root)
    if inner := folders_of(entries):
        name = inner[0].name
        remedy = (
            f"move its images up, or give '{folder}' as the data if its folders are the classes"
            if side_of(name) is None
            else f"put the splits outside, as {name}/{folder.name}, or give '{folder}' as the data "
            "if it holds the splits"
        )
        raise DpmixError(
            f"class folder '{folder}' holds a folder, '{name}'; expected image files only: {remedy}"
        )
    _refuse_what_is_no_file(entries)
    images = tuple(entry for entry in entries if is_image(entry))
    others = [entry for entry in entries if not is_image(entry)]
    if not images:
        found = f" but {len(others)} other file(s), {_kinds(others)}" if others else ""
        raise DpmixError(
            f"class folder '{folder}' holds no images{found}; expected files ending in "
            f"{', '.join(sorted(SUFFIXES))}: add some, or remove the folder"
        )
    return images, others


def _below(folder: Path, root: Path, around: tuple[Path, ...]) -> Iterator[Path]:
    """The files in and below `folder`; `around` is it and the folders that led to it, resolved."""
    entries = visible(folder, root)
    folders = set(folders_of(entries))
    _refuse_what_is_no_file(entry for entry in entries if entry not in folders)
    for entry in entries:
        if entry not in folders:
            yield entry
            continue
        target = entry.resolve()
        if target in around:
            raise DpmixError(
                f"'{entry}' is a symbolic link to a folder that holds it; expected no loop: "
                "remove it"
            )
        yield from _below(entry, root, (*around, target))


def _refuse_what_is_no_file(entries: Iterable[Path]) -> None:
    for entry in entries:
        if not entry.is_file():
            # A pipe would wait for ever for something to write into it.
            raise DpmixError(
                f"'{entry}' is no file but a pipe, a socket or a device; expected image files "
                "only: remove it"
            )


def _kinds(files: Sequence[Path]) -> str:
    """Such as `3 .heic, 1 without a suffix`, the most frequent first."""
    counts = Counter(file.suffix.lower() or "without a suffix" for file in files).most_common()
    shown = [f"{count} {kind}" for kind, count in counts[:_SUFFIXES_SHOWN]]
    rest = sum(count for _, count in counts[_SUFFIXES_SHOWN:])
    return ", ".join([*shown, *([f"{rest} others"] if rest else [])])


def _check_links(entries: Iterable[Path], root: Path) -> None:
    for entry in entries:
        if not entry.is_symlink():
            continue
        try:
            inside = entry.resolve(strict=True).is_relative_to(root.resolve())
        except (OSError, RuntimeError) as error:
            raise DpmixError(
                f"'{entry}' is a broken symbolic link; expected a file: remove it"
            ) from error
        if not inside:
            raise DpmixError(
                f"'{entry}' is a symbolic link out of the data folder '{root}'; "
                "expected files inside it: copy the target in"
            )


def local_path(text: str) -> Path:
    """`text` as a path, its ~ expanded; whether anything is there can be asked without an error.

    Raises:
        DpmixError: the home folder of no user, or a place that may not be looked at.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except RuntimeError:
        raise DpmixError(
            f"'{text}' begins with the home folder of no known user; expected ~/ or a whole path"
        ) from None
    except OSError as error:
        raise DpmixError(
            f"'{text}' cannot be looked at ({error.strerror}); expected a path: check it, and the "
            "permissions of the folders around it"
        ) from None
    return path
