"""Which private class each class of a pool stands for.

A pool class that no rule names is refused unless the caller chose what happens to it, so a misspelt
folder never drops out in silence.
"""

import csv
from pathlib import Path
from typing import Literal, get_args

from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError, nearest

UNLABELLED = -1  # the label of a public image whose soft label is uniform over the classes
LEFT_OUT = -2  # marks a pool class that is not used
Unmapped = Literal["refuse", "leave-out", "unlabelled"]
_HEADER = ("pool_class", "class")


def class_map(
    pool_classes: tuple[str, ...],
    class_names: tuple[str, ...],
    *,
    labels_csv: Path | None = None,
    unmapped: str = "refuse",
) -> list[int]:
    """Return, for each pool class, an index into `class_names`, `UNLABELLED` or `LEFT_OUT`.

    Args:
        pool_classes: the pool's own class names.
        class_names: the private data set's class names.
        labels_csv: a file with the columns `pool_class,class`; an empty class leaves images out.
        unmapped: what happens to a pool class that matches nothing, one of `Unmapped`.
    """
    if unmapped not in get_args(Unmapped):
        raise DpmixError(f"pool_unmapped is '{unmapped}': {nearest(unmapped, get_args(Unmapped))}")
    targets = {name: index for index, name in enumerate(class_names) if name in pool_classes}
    if labels_csv is not None:
        targets |= _read(labels_csv, pool_classes, class_names)
    unknown = [name for name in pool_classes if name not in targets]
    if unknown and unmapped == "refuse":
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise DpmixError(
            f"the public pool's class '{unknown[0]}'{more} is not a class of the private data: "
            f"{nearest(unknown[0], class_names)}; rename its folder, map it with --pool-labels, or "
            "choose --pool-unmapped leave-out (or unlabelled)"
        )
    other = UNLABELLED if unmapped == "unlabelled" else LEFT_OUT
    found = [targets.get(name, other) for name in pool_classes]
    if all(target == LEFT_OUT for target in found):
        raise DpmixError(
            "no class of the public pool is used: all are left out; expected at least one that "
            f"stands for one of {', '.join(class_names)}"
        )
    return found


def _read(
    path: Path, pool_classes: tuple[str, ...], class_names: tuple[str, ...]
) -> dict[str, int]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DpmixError(f"cannot read pool labels '{path}': {error}; check the file") from None
    if not rows or tuple(cell.strip() for cell in rows[0]) != _HEADER:
        raise DpmixError(
            f"pool labels '{path}' do not start with '{','.join(_HEADER)}'; expected that header, "
            "with a comma, in UTF-8, and one row for each class of the pool"
        )
    targets: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        fault = None
        name, target = (plain_name(cell.strip()) for cell in [*row, ""][:2])
        if len(row) != len(_HEADER):
            fault = f"{len(row)} cells; expected {len(_HEADER)}"
        elif name not in pool_classes:
            fault = f"the pool has no class '{name}': {nearest(name, pool_classes)}"
        elif target and target not in class_names:
            fault = f"the private data have no class '{target}': {nearest(target, class_names)}"
        elif name in targets:
            fault = f"class '{name}' is mapped twice; expected one row"
        if fault:
            raise DpmixError(f"pool labels '{path}', row {number}: {fault}")
        targets[name] = class_names.index(target) if target else LEFT_OUT
    return targets
