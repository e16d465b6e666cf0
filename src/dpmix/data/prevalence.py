"""Public class prevalences, read from a file."""

import csv
import math
from pathlib import Path

from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError, nearest

_HEADER = ("class", "prevalence")
_MOST = 1e12


def read_prevalences(path: Path, class_names: tuple[str, ...]) -> tuple[float, ...]:
    """Return the share of each class, in the order of `class_names`; they sum to one.

    Args:
        path: a CSV file with the columns `class,prevalence`: numbers above 0 of any scale, such as
            shares, percentages or counts.
        class_names: of the private data; each has one row.

    Raises:
        DpmixError: the file can't be read, or its first row that is wrong.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DpmixError(
            f"cannot read class prevalences '{path}': {error}; expected a CSV file in UTF-8 with "
            "the columns class and prevalence, or --class-prevalence private"
        ) from None
    if not rows or tuple(cell.strip() for cell in rows[0]) != _HEADER:
        raise DpmixError(
            f"class prevalences '{path}' do not start with '{','.join(_HEADER)}'; expected that "
            "header, with a comma, and one row for each class"
        )
    found: dict[str, float] = {}
    for number, row in enumerate(rows[1:], start=2):
        name, value = (cell.strip() for cell in [*row, "", ""][:2])
        name, share = plain_name(name), _number(value)
        fault = None
        if len(row) != len(_HEADER):
            fault = f"{len(row)} cells; expected {len(_HEADER)}"
        elif name not in class_names:
            fault = f"the private data have no class '{name}': {nearest(name, class_names)}"
        elif name in found:
            fault = f"class '{name}' is given twice; expected one row"
        elif not 1 / _MOST <= share <= _MOST:
            fault = (
                f"the prevalence of class '{name}' is '{value}'; expected a number above 0, "
                f"{1 / _MOST:g} to {_MOST:g}"
            )
        if fault:
            raise DpmixError(f"class prevalences '{path}', row {number}: {fault}")
        found[name] = share
    for name in class_names:
        if name not in found:
            raise DpmixError(
                f"class prevalences '{path}' have no row for class '{name}'; expected one for each "
                f"of the {len(class_names)} classes: add it"
            )
    whole = math.fsum(found.values())
    return tuple(found[name] / whole for name in class_names)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
