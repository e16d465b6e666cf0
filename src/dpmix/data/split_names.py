"""Which names are those of splits, for folders, hub data sets and arrays alike.

Guarantee: names alone decide, in any case of their letters; two names of one split are refused, and
a split that is not used is said in a warning.
"""

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Literal
from unicodedata import normalize

from dpmix.errors import DpmixError

# One form for a class's name, so that names that look the same are the same.


def plain_name(name: str) -> str:
    """`name` in Unicode's form NFC.

    Some systems store an accented letter as one character and others as two, so that the folders
    of one class can have two names. Plain text stays as it is.
    """
    return normalize("NFC", name)


Side = Literal["train", "test", "val"]


_SIDES: tuple[Side, ...] = ("train", "test", "val")


_NAMES = re.compile(
    r"(?:(train|training)|(test|testing)|(val|valid|validation))(?:[ _-]?set)?", re.IGNORECASE
)


def side_of(name: str) -> Side | None:
    """The split that `name` means, such as test for Test, TESTING or test_set; else None."""
    found = _NAMES.fullmatch(name)
    return _SIDES[(found.lastindex or 1) - 1] if found else None


def named_sides(names: Iterable[str], where: str) -> dict[Side, str]:
    """Return which of `names` stands for which split.

    Args:
        names: of folders, splits or arrays; other names are passed over.
        where: what they are names in, for messages.

    Raises:
        DpmixError: two names of one split.
    """
    sides: dict[Side, str] = {}
    for name in names:
        side = side_of(name)
        if side is None:
            continue
        if side in sides:
            raise DpmixError(
                f"{where} has '{sides[side]}' and '{name}', which both name the {side} split; "
                "expected one: merge them, or rename one"
            )
        sides[side] = name
    return sides


def judged_side(sides: Mapping[Side, str], where: str) -> str | None:
    """Return the name of the split to judge on: test, else validation; None where neither is there.

    A warning says what becomes of a validation split: next to a test split it is not used.
    """
    test, validation = sides.get("test"), sides.get("val")
    if validation is not None:
        said = (
            f"'{validation}' is not used: neither trained on nor judged on; '{test}' is judged on"
            if test is not None
            else f"there is no test split: the model is judged on '{validation}'"
        )
        warnings.warn(f"{where}: {said}", stacklevel=2)
    return test if test is not None else validation
