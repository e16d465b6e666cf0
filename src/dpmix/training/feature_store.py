"""Features on disk: appended row by row, resumed, mapped, and closed to other users.

Guarantees. A store is found only under the key with which it was made, compared in full; whatever
stops its making, the rows that it counts are complete and on the disk, and the next run continues
after them; nothing is written before the space for all of it was seen.

What a store holds was computed from private images without noise: its folder says so. Other users
can't list the stores, whose number alone can reveal the runs of a private selection. And a store's
name, wherever it is printed, is a keyed hash: a plain hash of the images would be a membership
test, since anyone who has the data set but for one image could compute both names and look which of
them exists. The test is `tests/training/test_feature_store.py`.
"""

import hmac
import json
import os
import secrets
import shutil
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from dpmix.errors import DpmixError
from dpmix.files import to_json, write_text

NOTICE = (
    "PRIVATE. The features in this folder were computed from private images without noise.\n"
    "The privacy guarantee does not cover them: do not share them. Delete the folder to free the "
    "space.\n"
)

DTYPES: dict[str, type[np.float16] | type[np.float32]] = {
    "float16": np.float16,
    "float32": np.float32,
}

_SECONDS_BETWEEN_SYNCS = 5.0
_CLOSED, _OTHERS = 0o700, stat.S_IRWXG | stat.S_IRWXO
_NAME = 20  # characters


@dataclass(frozen=True)
class Layout:
    """The size of a store.

    Attributes:
        rows: number of examples, N.
        views: feature vectors per row, M.
        features: numbers per feature vector, D.
        dtype: a key of `DTYPES`.
        classes: number of classes, L, if a row also holds soft labels [M, L]; else 0.
    """

    rows: int
    views: int
    features: int
    dtype: str
    classes: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        """Numbers per row in each file, by the file's name."""
        sizes = {"features.bin": self.views * self.features}
        return sizes | ({"labels.bin": self.views * self.classes} if self.classes else {})

    @property
    def itemsize(self) -> int:
        """Bytes per number."""
        return np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def bytes(self) -> int:
        """Size of the whole store."""
        return self.rows * sum(self.numbers.values()) * self.itemsize


class FeatureStore:
    """The rows that belong to one key.

    Args:
        root: folder of all stores.
        key: everything that determines the rows; another key is another store.
        layout: the size of the store.

    Raises:
        DpmixError: a folder that can't be made or closed to other users, or is somebody else's.
    """

    def __init__(self, root: Path, key: dict[str, Any], layout: Layout) -> None:
        self.layout = layout
        self._text = to_json({"key": key, "layout": vars(layout)})
        self.folder = store_folder(root, self._text)
        self._key_file = self.folder / "key.json"
        self._done_file = self.folder / "done.json"
        self._root = root

    def done(self) -> int:
        """How many rows there are.

        Raises:
            DpmixError: a folder that is not this store's, or was damaged.
        """
        try:
            if self._key_file.read_text(encoding="utf-8") != self._text:
                raise ValueError("another key")
            rows = int(json.loads(self._done_file.read_text(encoding="utf-8"))["rows"])
            whole = all(
                (self.folder / name).stat().st_size >= rows * count * self.layout.itemsize
                for name, count in self.layout.numbers.items()
            )
            if not whole or not 0 <= rows <= self.layout.rows:
                raise ValueError("its files are shorter than it says")
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DpmixError(
                f"feature cache '{self.folder}' is damaged ({error}); delete that folder"
            ) from None
        return rows

    @contextmanager
    def writing(self) -> Iterator["RowWriter"]:
        """Continue after the rows that are there; another run of the same store waits meanwhile.

        Raises:
            DpmixError: too little space, or a folder that can't be written.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(mode=_CLOSED, exist_ok=True)
            self._acquire(lock)
            done = self.done()
            self._refuse_full_disk(done)
            if not done:
                write_text(self.folder / "PRIVATE.txt", NOTICE)
                write_text(self._key_file, self._text)
            writer = RowWriter(self, done)
            try:
                yield writer
            finally:
                writer.close()
        except OSError as error:
            raise DpmixError(
                f"cannot write feature cache '{self.folder}' ({error.strerror or error}); what is "
                "there stays: free some space, or give another --cache-dir"
            ) from None
        finally:
            lock.release()

    def _acquire(self, lock: FileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warnings.warn(
                f"another run is embedding the same views into '{self.folder}': waiting for it",
                stacklevel=2,
            )
            lock.acquire()

    def features(self) -> Float[Tensor, "N M D"]:
        """All features, mapped from the file."""
        return self._mapped("features.bin", self.layout.features)

    def labels(self) -> Float[Tensor, "N M L"] | None:
        """Soft labels of all rows, mapped from the file, if the layout has them."""
        return self._mapped("labels.bin", self.layout.classes) if self.layout.classes else None

    def record(self, rows: int) -> None:
        """Count `rows` rows as written; they must be on the disk."""
        write_text(self._done_file, to_json({"rows": rows}))

    def _mapped(self, name: str, width: int) -> Tensor:
        shape = (self.layout.rows, self.layout.views, width)
        dtype = DTYPES[self.layout.dtype]
        # Copy-on-write: torch has no read-only tensors.
        return torch.from_numpy(np.memmap(self.folder / name, dtype, mode="c", shape=shape))

    def _refuse_full_disk(self, done: int) -> None:
        needed = self.layout.bytes * (self.layout.rows - done) // self.layout.rows
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            # Without how much it needs, which would show N: that can be private.
            raise DpmixError(
                f"the feature cache needs more than the {free / 1e9:.1f} GB that are free in "
                f"'{self._root}'; give another --cache-dir, fewer --cache-views, or --fresh-views"
            )


class RowWriter:
    """Appends rows to a store's files."""

    def __init__(self, store: FeatureStore, done: int) -> None:
        self.done = done
        self._store, self._layout = store, store.layout
        self._recorded, self._synced = done, time.monotonic()
        self._files: list[BufferedRandom] = []
        for name, count in self._layout.numbers.items():
            path = store.folder / name
            path.touch()
            file = path.open("r+b")
            self._files.append(file)
            # What a stopped run wrote and did not count is written again.
            file.truncate(done * count * self._layout.itemsize)
            file.seek(0, 2)

    def append(self, features: Float[Tensor, "R M D"], labels: Tensor | None) -> None:
        """Append rows; they count from the next sync on.

        Numbers beyond the type's range become its largest. NaN stays NaN, and the clipping engines
        count such a gradient as zero.
        """
        dtype = DTYPES[self._layout.dtype]
        limit = float(np.finfo(dtype).max)
        for file, values in zip(self._files, [features, labels], strict=False):
            assert values is not None
            file.write(values.float().cpu().clamp(-limit, limit).numpy().astype(dtype).tobytes())
        self.done += len(features)
        if time.monotonic() - self._synced > _SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Bring every row to the disk, then count it."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())
        if self._recorded != self.done:
            self._store.record(self.done)
        self._recorded, self._synced = self.done, time.monotonic()

    def close(self) -> None:
        """Sync, and close the files even if that fails."""
        try:
            self.sync()
        finally:
            for file in self._files:
                file.close()


def store_folder(root: Path, key: str) -> Path:
    """The folder for the store of `key` under `root`; its parents are made and closed.

    Raises:
        DpmixError: a folder that can't be made or closed to other users, or is somebody else's.
    """
    home = root / f"of-user-{os.geteuid()}"
    try:
        root.mkdir(mode=_CLOSED, parents=True, exist_ok=True)
        _make_closed(home)
        secret = _secret(home)
    except OSError as error:
        raise DpmixError(
            f"cannot keep private features in '{home}': {error.strerror or error}; give another "
            "--cache-dir, or --fresh-views"
        ) from None
    found = root.stat()
    shared = found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX
    if shared or found.st_uid not in (0, os.geteuid()):
        warnings.warn(
            f"other users can replace folders in '{root}', and so get at the private features of "
            "later runs; give a --cache-dir that belongs to you",
            stacklevel=2,
        )
    return home / hmac.digest(secret, key.encode(), "sha256").hex()[:_NAME]


def _make_closed(home: Path) -> None:
    """Make `home`, or close an existing one; never through a link.

    Raises:
        OSError: it is not a folder of this user, or its disk keeps no permissions.
    """
    with suppress(FileExistsError):
        home.mkdir(mode=_CLOSED)
    # Checks the folder that is open, not whatever has its name by then.
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
