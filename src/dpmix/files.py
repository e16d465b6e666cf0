"""Writing files whole or not at all, locking folders, and JSON that every parser reads."""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpmix.errors import DpmixError

Writer = Callable[[Path], object]
"""Fills the file at the path that it is given."""


def stage(path: Path, write: Writer) -> Path:
    """Let `write` fill a temporary file next to `path`, flush it to the disk, return its path.

    Raises:
        DpmixError: the disk is full, the folder read-only, or the like; nothing is left behind.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
    except OSError as error:
        aside.unlink(missing_ok=True)
        kept = "the earlier file is unharmed" if path.exists() else "nothing was written"
        raise DpmixError(
            f"cannot write '{path}': {error.strerror or error}; {kept}: check "
            "the folder and the space, or give another --output"
        ) from None
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside


def stage_all(contents: dict[Path, Writer]) -> dict[Path, Path]:
    """Stage several files; return where each is, by its final path. All of them, or none.

    Raises:
        DpmixError: as `stage` raises.
    """
    staged: dict[Path, Path] = {}
    try:
        for path, write in contents.items():
            staged[path] = stage(path, write)
    except BaseException:
        remove_all(staged.values())
        raise
    return staged


def staged_for(paths: Iterable[Path]) -> list[Path]:
    """What stopped processes staged for `paths` and never put in place."""
    return [aside for path in paths for aside in path.parent.glob(f".{path.name}.*.part")]


def remove_all(paths: Iterable[Path]) -> None:
    """Remove whichever of `paths` are there."""
    for path in paths:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all.

    Raises:
        DpmixError: as `stage` raises.
    """
    stage(path, text_writer(text)).replace(path)


def text_writer(text: str) -> Writer:
    """A writer of `text`."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    return write


class InUseError(DpmixError):
    """Another process writes to the folder."""


def lock(path: Path, what: str, mode: int = 0o777) -> FileLock:
    """Make the folder of a lock file and take the lock; give it back with `release`.

    Args:
        path: the lock file.
        what: the folder that it protects, for errors: "run folder 'runs/a'".
        mode: permissions of the lock file's own folder, if it has to be made.

    Raises:
        InUseError: another process has the lock.
        DpmixError: the folder can't be made, or not be written to.
    """
    taken = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(mode=mode, parents=True, exist_ok=True)
        taken.acquire()
    except Timeout:
        raise InUseError(
            f"{what} is in use by another process; wait for it or stop it, or give another --output"
        ) from None
    except OSError as error:
        raise DpmixError(f"cannot make {what}: {error.strerror}; give another --output") from None
    return taken


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON without the non-standard Infinity and NaN: they become strings."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
