"""Which private class each class of a pool stands for.

Guarantee: every pool class is accounted for. One that no rule names is refused unless the caller
chose what happens to it, so a misspelt folder never drops out in silence. Only names are read.
"""

import csv
from pathlib import Path
from typing import Literal, get_args

from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError, nearest

UNLABELLED = -1


"""The label of a public image whose soft label is uniform over the classes."""


LEFT_OUT = -2


"""Marks a pool class that is not used."""


Unmapped = Literal["refuse", "leave-out", "unlabelled"]


HEADER = ("pool_class", "class")


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
        class_names: the private data set's.
        labels_csv: a file with the columns `pool_class,class`; an empty class leaves images out.
            Without it, and for pool classes that it does not name, equal names match.
        unmapped: what becomes of a pool class that matches nothing.

    Raises:
        DpmixError: an unreadable file, a name in it that neither side has, a pool class that
            matches nothing under `refuse`, or no class left.
    """
    if unmapped not in get_args(Unmapped):
        raise DpmixError(f"pool_unmapped is '{unmapped}': {nearest(unmapped, get_args(Unmapped))}")
    given = _read(labels_csv, pool_classes, class_names) if labels_csv else {}
    position = {name: index for index, name in enumerate(class_names)}
    fallback = {"leave-out": LEFT_OUT, "unlabelled": UNLABELLED}.get(unmapped)
    targets = [given.get(name, position.get(name, fallback)) for name in pool_classes]
    unknown = [name for name, at in zip(pool_classes, targets, strict=True) if at is None]
    if unknown:
        raise _refusal(unknown, class_names)
    if all(at == LEFT_OUT for at in targets):
        raise DpmixError(
            "no class of the public pool is used: all are left out; expected at least one that "
            f"stands for one of {', '.join(class_names)}"
        )
    return [at for at in targets if at is not None]


def _refusal(unknown: list[str], class_names: tuple[str, ...]) -> DpmixError:
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    return DpmixError(
        f"the public pool's class '{unknown[0]}'{more} is not a class of the private data: "
        f"{nearest(unknown[0], class_names)}; rename its folder, map it with --pool-labels, or "
        "choose --pool-unmapped leave-out (or unlabelled)"
    )


def _read(
    path: Path, pool_classes: tuple[str, ...], class_names: tuple[str, ...]
) -> dict[str, int]:
    """The file's rows: pool class -> index or `LEFT_OUT`."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DpmixError(f"cannot read pool labels '{path}': {error}; check the file") from None
    if not rows or tuple(cell.strip() for cell in rows[0]) != HEADER:
        raise DpmixError(
            f"pool labels '{path}' do not start with '{','.join(HEADER)}'; expected that header, "
            "with a comma, in UTF-8, and one row for each class of the pool"
        )
    targets: dict[str, int] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells = [plain_name(cell.strip()) for cell in row]
        where = f"pool labels '{path}', row {number}"
        if len(cells) != len(HEADER):
            raise DpmixError(f"{where} has {len(cells)} cells; expected {len(HEADER)}")
        name, target = cells
        if name not in pool_classes:
            hint = nearest(name, pool_classes)
            raise DpmixError(f"{where}: the pool has no class '{name}': {hint}")
        if target and target not in class_names:
            hint = nearest(target, class_names)
            raise DpmixError(f"{where}: the private data have no class '{target}': {hint}")
        if name in targets:
            raise DpmixError(f"{where}: class '{name}' is mapped twice; expected one row")
        targets[name] = class_names.index(target) if target else LEFT_OUT
    return targets
