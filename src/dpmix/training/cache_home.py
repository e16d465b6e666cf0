"""Where a user's feature caches lie: closed to other users, under names that tell nothing.

Guarantees: nobody else can list the caches, whose number alone can tell of a private selection's
runs; and the name of one, wherever it is printed, is a keyed hash. A plain hash of the images would
be a membership test: whoever holds the data set but for one image could compute the names with and
without it, and look which of them is there (`tests/training/test_cache_home.py`).
"""

import hmac
import os
import secrets
import stat
import warnings
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from filelock import FileLock, Timeout

from dpmix.errors import DpmixError
from dpmix.files import write_text

_CLOSED = 0o700


_OTHERS = stat.S_IRWXG | stat.S_IRWXO


_NAME = 20


def store_folder(root: Path, key: str) -> Path:
    """The folder for the store of `key` under `root`; what it lies in is made.

    Raises:
        DpmixError: a folder that can't be made or closed to other users, or is somebody else's.
    """
    home = root / f"of-user-{os.geteuid()}"
    try:
        root.mkdir(mode=_CLOSED, parents=True, exist_ok=True)
        _close(home)
        secret = _secret(home)
        _move_in(root, home, secret)
    except OSError as error:
        raise DpmixError(
            f"cannot keep private features in '{home}': {error.strerror or error}; give another "
            "--cache-dir, or --fresh-views"
        ) from None
    _warn_of_a_root_that_others_rule(root)
    return home / _name(secret, key)


def _close(home: Path) -> None:
    """Make `home`, or close the one that is there; never through a link.

    Raises:
        OSError: it is not a folder of this user's, or its disk keeps no permissions.
    """
    with suppress(FileExistsError):
        home.mkdir(mode=_CLOSED)
    # Of the folder that is open, not of whatever has its name by then.
    handle = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid != os.geteuid():
            raise PermissionError("it belongs to another user")
        if os.fstat(handle).st_mode & _OTHERS:
            os.fchmod(handle, _CLOSED)
        if os.fstat(handle).st_mode & _OTHERS:
            raise PermissionError("this disk can't close a folder to other users")
    finally:
        os.close(handle)


def _secret(home: Path) -> bytes:
    path = home / "secret"
    if not path.exists():
        with FileLock(home / ".lock"):
            if not path.exists():
                write_text(path, secrets.token_hex(32))
    return path.read_bytes()


def _name(secret: bytes, key: str) -> str:
    return hmac.digest(secret, key.encode(), "sha256").hex()[:_NAME]


def _move_in(root: Path, home: Path, secret: bytes) -> None:
    """Move what earlier versions left in `root` itself, under plain hashes."""
    if not _of_earlier_versions(root):
        return
    with FileLock(home / ".lock"):  # one process moves and tells
        found = _of_earlier_versions(root)
        left = sum(not _moved(folder, home / _name(secret, key)) for folder, key in found.items())
    if found:
        stay = f"; {left} could not be moved: delete those that nothing uses" if left else ""
        warnings.warn(
            f"{len(found)} feature cache(s) of an earlier version lay in '{root}' under names that "
            f"tell which images they are of; they are found in '{home}' from now on{stay}",
            stacklevel=2,
        )


def _of_earlier_versions(root: Path) -> dict[Path, str]:
    found = {folder: _key_of(folder) for folder in root.glob("[0-9a-f]" * _NAME)}
    return {folder: key for folder, key in found.items() if key is not None}


def _key_of(folder: Path) -> str | None:
    """The key of an earlier version's cache; None for what is none, or another user's."""
    try:
        key = (folder / "key.json").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    return key if sha256(key.encode()).hexdigest()[:_NAME] == folder.name else None


def _moved(folder: Path, to: Path) -> bool:
    try:
        with FileLock(folder / ".lock", timeout=0):  # a run that embeds into it holds this
            folder.rename(to)
    except (OSError, Timeout):
        return False
    return True


def _warn_of_a_root_that_others_rule(root: Path) -> None:
    """Who may rename what is in `root` could put a folder of their own in the place of ours."""
    found = root.stat()
    shared = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if shared or found.st_uid not in (0, os.geteuid()):
        warnings.warn(
            f"other users can replace folders in '{root}', and so get at the private features of "
            "later runs; give a --cache-dir that belongs to you",
            stacklevel=2,
        )
