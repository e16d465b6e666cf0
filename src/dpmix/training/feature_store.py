"""Features on disk: appended row by row, resumed, mapped, and closed to other users.

Guarantees. A store is found only under the key with which it was made; whatever stops its making,
the whole rows of its file are complete, and the next run continues after them. Other users can't
list the stores, whose number alone can reveal the runs of a private selection. And a store's name
is a keyed hash: a plain hash of the images would be a membership test for anyone who has the data
set but for one image. The test is `tests/training/test_feature_store.py`.
"""

import hmac
import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_NAME = 20  # characters

# Features [R, M, D] and, where a store holds them, soft labels [R, M, L].
Append = Callable[[Tensor, Tensor | None], None]


@dataclass(frozen=True)
class Layout:
    """The size of a store: N rows of M feature vectors of D numbers.

    `classes` is the number of classes, L, if each vector is followed by its soft label [L]; else 0.
    """

    rows: int
    views: int
    features: int
    dtype: str
    classes: int = 0

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return self.views * (self.features + self.classes) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        """Size of the whole store."""
        return self.rows * self.row_bytes


class FeatureStore:
    """The rows of one `key`, everything that determines them, in a folder under `root`.

    Raises:
        DpmixError: a folder that can't be made or closed to other users, or is somebody else's.
    """

    def __init__(self, root: Path, key: dict[str, Any], layout: Layout) -> None:
        self.layout = layout
        self.folder = store_folder(root, to_json({"key": key, "layout": vars(layout)}))
        self._file = self.folder / "rows.bin"

    def done(self) -> int:
        """How many whole rows there are; a file that is longer than the store is refused."""
        size = self._file.stat().st_size if self._file.exists() else 0
        if size > self.layout.bytes:
            raise DpmixError(f"feature cache '{self.folder}' is damaged; delete that folder")
        return size // self.layout.row_bytes

    @contextmanager
    def writing(self) -> Iterator[Append]:
        """Yield what appends rows; another run of the same store waits meanwhile.

        Raises:
            DpmixError: too little space, or a folder that can't be written.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                warnings.warn(
                    f"another run is embedding the same views into '{self.folder}': waiting for it",
                    stacklevel=3,
                )
                lock.acquire()
            self._refuse_full_disk()
            write_text(self.folder / "PRIVATE.txt", NOTICE)
            self._file.touch()
            with self._file.open("r+b") as file:
                # Part of a row, which a stopped run left, is written again.
                file.truncate(file.seek(self.done() * self.layout.row_bytes))

                def append(features: Tensor, labels: Tensor | None) -> None:
                    file.write(self._packed(features, labels))
                    file.flush()

                yield append
                os.fsync(file.fileno())
        except OSError as error:
            raise DpmixError(
                f"cannot write feature cache '{self.folder}' ({error.strerror or error}); what is "
                "there stays: free some space, or give another --cache-dir"
            ) from None
        finally:
            lock.release()

    def features(self) -> Float[Tensor, "N M D"]:
        """All features, mapped from the file."""
        return self._mapped()[:, :, : self.layout.features]

    def labels(self) -> Float[Tensor, "N M L"] | None:
        """Soft labels of all rows, mapped from the file, if the layout has them."""
        return self._mapped()[:, :, self.layout.features :] if self.layout.classes else None

    def _mapped(self) -> Tensor:
        size = self.layout
        shape = (size.rows, size.views, size.features + size.classes)
        # Copy-on-write: torch has no read-only tensors.
        return torch.from_numpy(np.memmap(self._file, size.dtype, mode="c", shape=shape))

    def _packed(self, features: Float[Tensor, "R M D"], labels: Tensor | None) -> bytes:
        """The rows' bytes; numbers beyond the type's range become its largest, NaN stays NaN."""
        limit = float(np.finfo(self.layout.dtype).max)
        parts = [part.float().cpu() for part in (features, labels) if part is not None]
        numbers = torch.cat(parts, dim=2).clamp(-limit, limit).numpy()
        return numbers.astype(self.layout.dtype).tobytes()

    def _refuse_full_disk(self) -> None:
        free = shutil.disk_usage(self.folder).free
        if self.layout.bytes - self.done() * self.layout.row_bytes > free:
            # Without how much it needs, which would show N: that can be private.
            raise DpmixError(
                f"the feature cache needs more than the {free / 1e9:.1f} GB that are free in "
                f"'{self.folder.parent}'; give another --cache-dir, fewer --cache-views, or "
                "--fresh-views"
            )


def store_folder(root: Path, key: str) -> Path:
    """The folder for the store of `key` under `root`; its parents are made and closed."""
    home = root / f"of-user-{os.geteuid()}"
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.mkdir(mode=0o700, exist_ok=True)
        found = home.lstat()  # a link is not followed
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError("it is not a folder of this user")
        if found.st_mode & _OTHERS:
            home.chmod(0o700)
        if home.lstat().st_mode & _OTHERS:
            raise PermissionError("this disk can't close a folder to other users")
        secret = home / "secret"
        with FileLock(home / ".lock"):
            if not secret.exists():
                write_text(secret, secrets.token_hex(32))
        name = hmac.digest(secret.read_bytes(), key.encode(), "sha256").hex()[:_NAME]
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
    return home / name
