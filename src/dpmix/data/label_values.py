"""Numbers to several labels for each image: 1, 0, or -1 where a label is unknown."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, Shaped
from torch import Tensor

from dpmix.data.source import UNKNOWN
from dpmix.errors import DpmixError, nearest


def label_matrix(
    values: Shaped[np.ndarray, "N L"],
    names: Sequence[str],
    where: str,
    place: Callable[[int], str],
    remedy: str = "",
) -> Int64[Tensor, "N L"]:
    """Check and convert labels: NaN is unknown too.

    Args:
        values: of any kind of number.
        names: of the L labels.
        where: what messages call their source.
        place: where an image is, for messages, by its number: `" in row 3"`.
        remedy: the end of the message.

    Raises:
        DpmixError: another value, with the image and the label.
    """
    kind = values.dtype.kind
    if kind not in "iufb":
        raise DpmixError(f"{where}: labels are {values.dtype}; expected the numbers 1, 0 and -1")
    unknown = np.isnan(values) if kind == "f" else np.zeros(values.shape, dtype=bool)
    filled = np.where(unknown, UNKNOWN, values)
    bad = ~np.isin(filled, (0, 1, UNKNOWN))
    if bad.any():
        row, column = (int(one) for one in np.argwhere(bad)[0])
        more = f", and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""
        raise DpmixError(
            f"{where}: label '{names[column]}' is {values[row, column]:g}{place(row)}{more}; "
            f"expected 1, 0, or -1 (or nothing) where it is unknown{remedy}"
        )
    return torch.from_numpy(filled.astype(np.int64))


def chosen_columns(there: Sequence[str], wanted: Sequence[str], where: str) -> list[str]:
    """The columns that are labels: those `wanted`, in their order, or all that are `there`."""
    for name in wanted:
        if name not in there:
            raise DpmixError(f"{where} has no label '{name}': {nearest(name, [*there])}")
        if list(wanted).count(name) > 1:
            raise DpmixError(f"label_columns names '{name}' twice; give each once")
    return list(wanted or there)


def label_number(value: Any) -> float:
    """A cell as a number; an empty one, or none, is unknown.

    Raises:
        ValueError: it is no number.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return float(UNKNOWN)
    return float(value)
