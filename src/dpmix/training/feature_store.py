"""Rows of features on disk: appended, resumed, mapped.

Guarantees: a store is found only under the key that it was made with, compared in full; whatever
stops its making, the rows that it counts are whole and on the disk, and the next run goes on after
them; nothing is written before the space for all of it was seen. What it holds was computed from
private images without noise: its folder says so, and lies where `cache_home` closes it to others.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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
from dpmix.training.cache_home import store_folder

NOTICE = (
    "PRIVATE. The features in this folder were computed from private images without noise.\n"
    "The privacy guarantee does not cover them: do not share them. Delete the folder to free the "
    "space.\n"
)


_SECONDS_BETWEEN_SYNCS = 5.0


DTYPES: dict[str, type[np.float16] | type[np.float32]] = {
    "float16": np.float16,
    "float32": np.float32,
}


@dataclass(frozen=True)
class Layout:
    """What one row holds.

    Attributes:
        rows: N.
        views: M, feature vectors in a row.
        features: D.
        dtype: of `DTYPES`.
        classes: L where a row also holds soft labels [M, L], else 0.
    """

    rows: int
    views: int
    features: int
    dtype: str
    classes: int = 0

    @property
    def numbers(self) -> dict[str, int]:
        """Numbers of a row in each file, by the file's name."""
        sizes = {"features.bin": self.views * self.features}
        return sizes | ({"labels.bin": self.views * self.classes} if self.classes else {})

    @property
    def bytes(self) -> int:
        """Size of the whole store."""
        return self.rows * sum(self.numbers.values()) * np.dtype(DTYPES[self.dtype]).itemsize


class FeatureStore:
    """The rows that belong to one key.

    Args:
        root: folder of all stores.
        key: what the rows are functions of; any change of it is another store.
        layout: of the rows.

    Raises:
        DpmixError: as `store_folder` raises.
    """

    def __init__(self, root: Path, key: dict[str, Any], layout: Layout) -> None:
        self.layout = layout
        self._text = to_json({"key": key, "layout": vars(layout)})
        self.folder = store_folder(root, self._text)
        self._key_file = self.folder / "key.json"
        self._done_file = self.folder / "done.json"
        self._root = root

    def done(self) -> int:
        """How many rows are there.

        Raises:
            DpmixError: a folder that is not this store's, or one that was damaged.
        """
        try:
            if self._key_file.read_text(encoding="utf-8") != self._text:
                raise ValueError("another key")
            rows = int(json.loads(self._done_file.read_text(encoding="utf-8"))["rows"])
            row_bytes = np.dtype(DTYPES[self.layout.dtype]).itemsize
            whole = all(
                (self.folder / name).stat().st_size >= rows * count * row_bytes
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
        """Go on after the rows that are there; whoever else would waits meanwhile.

        Raises:
            DpmixError: too little space, or a folder that can't be written.
        """
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            self._wait_for(lock)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
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
            raise self._unwritable(error) from None
        finally:
            lock.release()

    def _wait_for(self, lock: FileLock) -> None:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            warnings.warn(
                f"another run is embedding the same views into '{self.folder}': waiting for it",
                stacklevel=2,
            )
            lock.acquire()

    def features(self) -> Float[Tensor, "N M D"]:
        """All rows, mapped from the file."""
        return self._mapped("features.bin", self.layout.features)

    def labels(self) -> Float[Tensor, "N M L"] | None:
        """Soft labels of all rows, mapped from the file, where the layout has them."""
        return self._mapped("labels.bin", self.layout.classes) if self.layout.classes else None

    def record(self, rows: int) -> None:
        """Count `rows` as there; they must be on the disk."""
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
            # Without how much it needs, which would tell N: that can be private.
            raise DpmixError(
                f"the feature cache needs more than the {free / 1e9:.1f} GB that are free in "
                f"'{self._root}'; give another --cache-dir, fewer --cache-views, or --fresh-views"
            )

    def _unwritable(self, error: OSError) -> DpmixError:
        return DpmixError(
            f"cannot write feature cache '{self.folder}' ({error.strerror or error}); what is "
            "there is kept: free some space, or give another --cache-dir"
        )


class RowWriter:
    """Appends rows to a store's files."""

    def __init__(self, store: FeatureStore, done: int) -> None:
        self.done = done
        self._store = store
        self._recorded, self._synced = done, time.monotonic()
        layout = store.layout
        self._dtype = DTYPES[layout.dtype]
        self._files: list[BufferedRandom] = []
        for name, count in layout.numbers.items():
            path = store.folder / name
            path.touch()
            file = path.open("r+b")
            self._files.append(file)
            # What a stopped run wrote and never counted is written anew.
            file.truncate(done * count * np.dtype(self._dtype).itemsize)
            file.seek(0, 2)

    def append(self, features: Float[Tensor, "R M D"], labels: Tensor | None) -> None:
        """Append rows; they count from the next sync on.

        Numbers beyond the type's range become its largest; what is not a number stays so, and the
        clipping engines count such a gradient as zero.
        """
        limit = float(np.finfo(self._dtype).max)
        for file, values in zip(self._files, [features, labels], strict=False):
            assert values is not None
            numbers = values.float().cpu().clamp(-limit, limit).numpy().astype(self._dtype)
            file.write(numbers.tobytes())
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
        """Sync, and close the files whatever that brings."""
        try:
            self.sync()
        finally:
            for file in self._files:
                file.close()
