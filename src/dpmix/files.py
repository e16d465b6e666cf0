"""Files that are written whole or not at all, and JSON that every reader accepts.

A file is filled next to its place, brought to the disk and then renamed.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dpmix.errors import DpmixError


def stage(path: Path, content: bytes | Callable[[Path], object]) -> Path:
    """Bring a file next to `path` to the disk, of `content` or filled by it; return its path.

    Raises:
        DpmixError: the disk is full or the folder is read-only; the unfinished file is removed.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if isinstance(content, bytes):
            aside.write_bytes(content)
        else:
            content(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        state = "the earlier file is unharmed" if path.exists() else "nothing was written"
        raise DpmixError(
            f"cannot write '{path}': {error.strerror or error}; {state}: check "
            "the folder and the space, or give another --output"
        ) from None
    return aside


def staged_for(paths: Iterable[Path]) -> list[Path]:
    """List the files that stopped processes staged for `paths` and never renamed."""
    return [aside for path in paths for aside in path.parent.glob(f".{path.name}.*.part")]


def remove_all(paths: Iterable[Path]) -> None:
    """Remove the files at `paths`; missing ones are ignored."""
    for path in paths:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, whole or not at all."""
    stage(path, text.encode()).replace(path)


class InUseError(DpmixError):
    """Another process writes to the folder."""


def lock(path: Path, what: str, mode: int = 0o777) -> FileLock:
    """Make the folder of a lock file and take the lock; give it back with `release`.

    `what` names what it protects, for errors, and `mode` is of a folder that has to be made.
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
    """Return `value` as JSON; infinity and NaN, which JSON lacks, become strings."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
