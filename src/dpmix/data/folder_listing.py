"""The image files of a folder of classes.

Guarantees: sorted, so every machine sees the same order; nothing hidden; nothing that a symbolic
link reaches outside the data's root. The names of class folders count as public.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

from dpmix.errors import DpmixError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
)  # fmt: skip


def list_classes(folder: Path, root: Path) -> dict[str, tuple[Path, ...]]:
    """Return the image files of every class folder in `folder`, both sorted by name.

    Files beside the class folders and files that are not images by their suffix are left alone; of
    images there a warning tells.

    Args:
        folder: holds one folder per class.
        root: what no symbolic link may leave.

    Raises:
        DpmixError: no class folders, one without images or with folders or pipes of its own, a
            folder that cannot be read, or a symbolic link that is broken or leaves `root`.
    """
    entries = visible(folder, root)
    classes = {entry.name: _images(entry, root) for entry in entries if entry.is_dir()}
    if not classes:
        raise no_class_folders(folder)
    loose = [entry for entry in entries if entry.is_file() and entry.suffix.lower() in SUFFIXES]
    if loose:
        warnings.warn(
            f"{len(loose)} image(s) in '{folder}' lie in no class folder and are left out, such as "
            f"'{loose[0].name}'",
            stacklevel=2,
        )
    return classes


def no_class_folders(folder: Path) -> DpmixError:
    """The error for a folder without class folders."""
    return DpmixError(
        f"data folder '{folder}' holds no class folders; expected one folder of images per "
        "class, such as cats/ and dogs/"
    )


def visible(folder: Path, root: Path) -> list[Path]:
    """Return what `folder` holds, sorted, hidden names left out.

    Raises:
        DpmixError: `folder` cannot be read, or a symbolic link is broken or leaves `root`.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DpmixError(
            f"data folder '{folder}' cannot be read ({error.strerror}); expected a readable folder"
        ) from error
    _check_links(entries, root)
    return entries


def _images(folder: Path, root: Path) -> tuple[Path, ...]:
    entries = visible(folder, root)
    for entry in entries:
        if entry.is_dir():
            raise DpmixError(
                f"class folder '{folder}' holds a folder, '{entry.name}'; "
                "expected image files only: move its images up"
            )
        if not entry.is_file():
            # A pipe would wait for whoever writes into it, for ever.
            raise DpmixError(
                f"'{entry}' is no file but a pipe, a socket or a device; expected image files "
                "only: remove it"
            )
    images = tuple(entry for entry in entries if entry.suffix.lower() in SUFFIXES)
    if not images:
        raise DpmixError(
            f"class folder '{folder}' holds no images; expected files ending in "
            f"{', '.join(sorted(SUFFIXES))}: add some, or remove the folder"
        )
    return images


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
