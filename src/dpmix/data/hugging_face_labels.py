"""Several labels an image in a Hugging Face data set: a list of classes, or one column a label."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.label_values import chosen_columns, label_matrix, label_number
from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError

# Names of a column's two classes, of which the second one means that the label is present.
_ANSWERS = (
    ("0", "1"), ("no", "yes"), ("false", "true"), ("absent", "present"), ("negative", "positive"),
)  # fmt: skip
_NO_AND_YES = "the classes no and yes in this order"


@dataclass(frozen=True)
class LabelColumns:
    """Where the labels are.

    Attributes:
        columns: their columns.
        names: of the labels.
        lists: whether the only column lists the classes that an image has; those that are not in
            the list are 0.
    """

    columns: tuple[str, ...]
    names: tuple[str, ...]
    lists: bool

    @classmethod
    def of(cls, where: str, kinds: Any, wanted: tuple[str, ...]) -> "LabelColumns":
        """Find the labels among the set's columns: those `wanted`, or its only list of classes.

        Args:
            where: what messages call the set.
            kinds: `datasets.Features` of the set.
            wanted: names of columns; empty: the set's only list of classes.

        Raises:
            DpmixError: there is none, or no such column.
        """
        lists = [name for name, kind in kinds.items() if _classes_of(kind)]
        if not wanted and len(lists) != 1:
            raise DpmixError(
                f"{where} has {len(lists)} columns with lists of classes in: {', '.join(kinds)}; "
                "name the columns of the labels with --label-column"
            )
        columns = tuple(chosen_columns([*kinds], wanted or lists, where))
        if len(columns) == 1 and columns[0] in lists:
            names = tuple(plain_name(one) for one in _classes_of(kinds[columns[0]]))
            return cls(columns, names, lists=True)
        for name in columns:
            if name in lists:
                raise DpmixError(
                    f"{where}: column '{name}' is a list of classes; expected it alone, or columns "
                    "with one label each in --label-column"
                )
            answers = tuple(str(one).lower() for one in getattr(kinds[name], "names", _ANSWERS[0]))
            if answers not in _ANSWERS:
                raise DpmixError(
                    f"{where}: column '{name}' has the classes {', '.join(answers)}, and 1 stands "
                    f"for '{answers[-1]}'; expected a label that is 0 or 1, or {_NO_AND_YES}: cast "
                    "it to datasets.Value('int8')"
                )
        return cls(columns, columns, lists=False)

    def labels(self, where: str, side: str, rows: Any) -> Int64[Tensor, "N L"]:
        """The labels of every row of the split `side`; an empty cell is unknown.

        Raises:
            DpmixError: a value that is no label, with its row.
        """
        if self.lists:
            return self._of_lists(where, side, rows[self.columns[0]][:])
        values = np.empty((len(rows), len(self.columns)))
        for place, column in enumerate(self.columns):
            for row, cell in enumerate(rows[column][:]):
                try:
                    values[row, place] = label_number(cell)
                except (TypeError, ValueError):
                    raise DpmixError(
                        f"{where}: column '{column}' holds {cell!r:.40} in row {row} of '{side}'; "
                        "expected 1, 0, or -1 (or nothing) where it is unknown"
                    ) from None
        return label_matrix(values, self.names, where, lambda row: f" in row {row} of '{side}'")

    def _of_lists(self, where: str, side: str, found: list[Any]) -> Int64[Tensor, "N L"]:
        matrix = torch.zeros(len(found), len(self.names), dtype=torch.int64)
        for row, present in enumerate(found):
            if present is None or not all(
                one is not None and 0 <= one < len(self.names) for one in present
            ):
                raise DpmixError(
                    f"{where}: column '{self.columns[0]}' holds {present!r:.40} in row {row} of "
                    f"'{side}'; expected a list of classes, 0..{len(self.names) - 1}"
                )
            matrix[row, present] = 1
        return matrix


def _classes_of(kind: Any) -> list[str]:
    """The classes of a column that holds lists of them; empty for other columns."""
    inner = getattr(kind, "feature", None)  # of datasets.Sequence, List and LargeList
    return list(getattr(inner, "names", None) or [])
