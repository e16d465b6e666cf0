"""Named arrays out of an `.npz` file, without pickle and with errors that name the array."""

from pathlib import Path
from types import TracebackType
from typing import Any
from zipfile import is_zipfile

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.split_names import plain_name
from dpmix.errors import DpmixError

Array = np.ndarray[Any, np.dtype[Any]]


class NpzArchive:
    """An open `.npz` file; arrays are read when they are asked for.

    Raises:
        DpmixError: the file is missing, unreadable or no `.npz`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                whole = is_zipfile(stream)
            if not whole:
                raise _not_npz(path)
            self._file = np.load(path, allow_pickle=False)
        except DpmixError:
            raise
        except OSError as error:
            raise DpmixError(
                f"data file '{path}' cannot be read ({error.strerror}); expected a readable .npz "
                "file: check the path"
            ) from error
        # What follows a good zip ending can still be anything.
        except Exception as error:
            raise _not_npz(path) from error

    def __enter__(self) -> "NpzArchive":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def names(self) -> list[str]:
        """The arrays that the file holds."""
        return list(self._file.files)

    def __contains__(self, name: str) -> bool:
        return name in self._file.files

    def array(self, name: str) -> Array:
        """Read the array `name`.

        Raises:
            DpmixError: it is missing, damaged, or holds Python objects.
        """
        if name not in self:
            raise DpmixError(
                f"{self.path.name} has no array '{name}'; expected it beside: "
                f"{', '.join(self.names)}"
            )
        try:
            value = self._file[name]
        # A damaged archive makes zipfile, zlib and numpy raise errors of many kinds.
        except Exception as error:
            raise DpmixError(_why_unreadable(self.path.name, name, error)) from error
        if not isinstance(value, np.ndarray):
            raise DpmixError(f"{self.path.name}: '{name}' is not an array; expected numpy.savez's")
        return value

    def labels(self, name: str, count: int) -> Int64[Tensor, " N"]:
        """Read the labels `name` of `count` images: whole numbers, [N] or [N, 1], none negative.

        Raises:
            DpmixError: another type, shape or length, or a label that is no class, such as NaN.
        """
        value = self.array(name)
        where = f"{self.path.name}: '{name}'"
        if value.ndim == 2 and value.shape[1] == 1:
            value = value[:, 0]
        if value.dtype.kind in "US":
            raise DpmixError(
                f"{where} holds text; expected numbers from 0, and the names as 'class_names': "
                "np.array([CLASSES.index(name) for name in y]), where CLASSES is fixed beforehand"
            )
        if value.ndim == 2 and value.shape[1] > 1:
            raise DpmixError(
                f"{where} is {list(value.shape)}: several labels per image are not supported yet; "
                "expected one whole number per image, of one-hot rows y.argmax(axis=1)"
            )
        if value.dtype.kind not in "iufb" or value.ndim != 1:
            raise DpmixError(
                f"{where} is {value.dtype} {list(value.shape)}; expected one whole number per image"
            )
        if len(value) != count:
            raise DpmixError(
                f"{where} holds {len(value)} labels for {count} images; expected as many"
            )
        if value.dtype.kind == "f":
            value = value.astype(np.float64)
        _refuse_no_class(value, where)
        return torch.from_numpy(value.astype(np.int64))

    def class_names(self, *labels: Int64[Tensor, " _"]) -> tuple[str, ...]:
        """The file's class names, or numbers up to the largest of `labels`.

        Raises:
            DpmixError: names that are not a list of text, or fewer names than labels need.
        """
        highest = max((int(part.max()) for part in labels if len(part)), default=-1)
        key = next((key for key in ("class_names", "classes", "names") if key in self), None)
        if key is None:
            if highest >= sum(map(len, labels)):
                raise self._gap(highest, "is beyond the number of images")
            return tuple(str(label) for label in range(highest + 1))
        value = self.array(key)
        if value.dtype.kind != "U" or value.ndim != 1:
            raise DpmixError(
                f"{self.path.name}: '{key}' is {value.dtype} {list(value.shape)}; "
                "expected a list of text, one name per class"
            )
        if highest >= len(value):
            lowest = min(int(part.min()) for part in labels if len(part))
            if lowest > 0:
                raise self._starts_at(lowest)
            raise DpmixError(
                f"{self.path.name}: label {highest} is out of range; expected 0..{len(value) - 1}, "
                f"one for each name in '{key}': add the names that are missing"
            )
        return tuple(plain_name(name) for name in value.tolist())

    def refuse_gaps(self, *labels: Int64[Tensor, " _"]) -> None:
        """Refuse labels that do not start at 0, or that skip a number.

        Raises:
            DpmixError: they do.
        """
        used = np.unique(np.concatenate([part.numpy() for part in labels]))
        if not len(used) or used[-1] == len(used) - 1:
            return
        if used[-1] - used[0] == len(used) - 1:
            raise self._starts_at(int(used[0]))
        missing = int(np.flatnonzero(used != np.arange(len(used)))[0])
        raise self._gap(missing, "is that of no image")

    def _starts_at(self, lowest: int) -> DpmixError:
        return DpmixError(
            f"{self.path.name}: the labels start at {lowest}; expected classes numbered from 0: "
            f"save y - {lowest}"
        )

    def _gap(self, label: int, what: str) -> DpmixError:
        return DpmixError(
            f"{self.path.name}: label {label} {what}; expected classes numbered from 0 without "
            "gaps: save np.searchsorted(USED, y), where USED is the sorted list of labels in use"
        )


def is_npz(path: Path) -> bool:
    """Whether `path` is that of an `.npz` file, by its suffix in any case."""
    return path.suffix.lower() == ".npz"


def _refuse_no_class(labels: Array, where: str) -> None:
    good = (labels >= 0) & (labels < 2**31)  # no NaN is
    if labels.dtype.kind == "f":
        good &= labels == np.floor(labels)
    if not good.all():
        rows = np.flatnonzero(~good)
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        raise DpmixError(
            f"{where} has the label {labels[rows[0]]} in row {rows[0]}{more}; expected classes "
            "numbered from 0: leave such images out, as keep = np.ravel(y) >= 0; x[keep], y[keep] "
            "do, or give them a class"
        )


def _not_npz(path: Path) -> DpmixError:
    return DpmixError(
        f"{path.name} is not an .npz file, or is cut short; expected one written by numpy.savez"
    )


def _why_unreadable(file: str, name: str, error: Exception) -> str:
    if "allow_pickle" in str(error):
        return (
            f"{file}: '{name}' holds Python objects, which are never unpickled; "
            "expected a plain uint8, integer or text array: save it as one"
        )
    return f"{file}: array '{name}' is damaged ({error}); expected a whole file: fetch it again"
