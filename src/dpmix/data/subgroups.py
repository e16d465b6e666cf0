"""Subgroups of the images that a model is judged on, such as sexes, ages or scanners, from a CSV.

Guarantee: nothing here enters the training. The list is read for the evaluated images alone, and an
image that it does not list is in no group and is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.file_list import read_file_list, rows_of
from dpmix.data.fingerprint import file_names
from dpmix.data.source import ImageSource, task_of
from dpmix.errors import DpmixError

_MOST = 50  # values of a column; more are numbers of some kind, such as ages in days
_EMPTY = "no value"


@dataclass(frozen=True)
class Subgroups:
    """The group of every evaluated image, by each column of the list.

    Attributes:
        columns: column -> value for every image; None: the list does not name the image.
        not_listed: number of images that the list does not name.
    """

    columns: dict[str, tuple[str | None, ...]]
    not_listed: int

    def rows(self, column: str) -> dict[str, Int64[Tensor, " M"]]:
        """The places of the images of each group, by the sorted values of the column."""
        values = self.columns[column]
        return {
            group: torch.tensor([place for place, one in enumerate(values) if one == group])
            for group in sorted({one for one in values if one is not None})
        }


def load_subgroups(path: str | None, data: str, source: ImageSource) -> Subgroups | None:
    """Read a CSV of `file` and one or more columns of groups, as `read_file_list` does.

    Args:
        path: the CSV; None: there are no groups.
        data: the data folder.
        source: the images to evaluate on.

    Raises:
        DpmixError: images without file names, a list that cannot be read or that lists none of the
            images, or a column with more groups than a table can show.
    """
    if path is None:
        return None
    what, names = f"subgroups '{path}'", file_names(source)
    root = Path(data).expanduser()
    if names is None or not root.is_dir():
        raise DpmixError(
            f"{what} does not apply to data '{data}', whose images have no file names; expected a "
            "folder of images"
        )
    rows = read_file_list(Path(path).expanduser(), root, "subgroups")
    found = rows_of(rows, names, what)
    listed = [row for row in found if row is not None]
    if not listed:
        raise DpmixError(
            f"{what} lists none of the {len(names)} images to evaluate on, such as '{names[0]}'; "
            "expected paths relative to the data folder, or names of files"
        )
    columns = {
        column: tuple(None if row is None else row.values[column] or _EMPTY for row in found)
        for column in listed[0].values
    }
    groups = Subgroups(columns, len(names) - len(listed))
    for column, values in columns.items():
        _check(what, column, values)
        for group, at in groups.rows(column).items():
            if task_of(source.labels) == "multi-label" and not (source.labels[at] >= 0).any():
                raise DpmixError(
                    f"{what}: no label is known of the evaluated images of {column} '{group}'; "
                    "join it with another group, or delete its lines"
                )
    return groups


def _check(what: str, column: str, values: Sequence[str | None]) -> None:
    groups = {one for one in values if one is not None}
    if len(groups) > _MOST:
        raise DpmixError(
            f"{what}: column '{column}' has {len(groups)} values; expected {_MOST} or fewer: "
            "write ranges, such as 60-69"
        )
    for text in (column, *groups):
        if not text.isprintable():
            raise DpmixError(
                f"{what}: {text!r} holds a character that can't be printed; write it without"
            )
