"""CSV files that say something of each file of a data folder: who it shows, or its labels.

A file is listed as a path relative to the data folder or to the list's own folder, as an absolute
path, or by its bare name.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError, one_line

T = TypeVar("T")
FILE = "file"  # the column that names files


@dataclass(frozen=True)
class FileRow:
    """One line of a list: its number, the file as written and as found, and the other cells."""

    line: int
    file: str = field(repr=False)
    name: str = field(repr=False)
    cells: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True)
class FileList(Generic[T]):
    """What a list says of each file, by path or bare name; `source` is what messages call it."""

    by_name: Mapping[str, T] = field(repr=False)
    source: str

    def find(self, names: Sequence[str]) -> list[T | None]:
        """What is listed for every file, given by its path relative to the data folder.

        Raises:
            DpmixError: a file is listed twice with different values, by path and by bare name; or
                a bare name fits several files.
        """
        bare, listed = Counter(bare_name(name) for name in names), self.by_name
        twice = [
            name
            for name in names
            if {plain_name(name), bare_name(name)} <= listed.keys()
            and listed[plain_name(name)] != listed[bare_name(name)]
        ]
        if twice:
            raise DpmixError(
                f"{self.source} lists {len(twice)} file(s) twice and differently, once by path and "
                f"once by bare name: {few(twice)}; expected one line for each"
            )
        by_bare_name = [n for n in names if plain_name(n) not in listed and bare_name(n) in listed]
        if alike := [name for name in by_bare_name if bare[bare_name(name)] > 1]:
            raise DpmixError(
                f"{self.source} names files without their folders, and {len(alike)} image(s) share "
                f"a name with another: {few(alike)}; expected paths relative to the data folder"
            )
        return [listed.get(plain_name(name), listed.get(bare_name(name))) for name in names]

    def absent(self, names: Sequence[str]) -> list[str]:
        """The listed files that are none of `names`."""
        known = {plain_name(name) for name in names} | {bare_name(name) for name in names}
        return [name for name in self.by_name if name not in known]


def read_file_list(
    path: Path, root: Path, what: str, others: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[FileRow]]:
    """Read a CSV with the column `file` and further ones.

    Args:
        path: the file.
        root: the data folder.
        what: what messages call the file: `persons`.
        others: columns that must be there; empty: any, and one or more.

    Returns:
        The names of the other columns in their order, and the rows.

    Raises:
        DpmixError: the file cannot be read, is no CSV in UTF-8, lacks a column, or lists no file.
    """
    wanted = ", ".join([FILE, *others] if others else [FILE, "others"])
    try:
        # Excel writes a byte order mark; newline="" lets the reader see Windows line ends.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = [plain_name(one.strip()) for one in reader.fieldnames or ()]
            reader.fieldnames = columns
            if not {FILE, *others} <= {*columns} or len(columns) < 2:
                raise DpmixError(
                    f"{what} '{path}' has the columns {', '.join(columns) or 'of nothing'}; "
                    f"expected {wanted}, separated by commas"
                )
            if twice := [name for name, count in Counter(columns).items() if count > 1]:
                raise DpmixError(
                    f"{what} '{path}' has the column '{twice[0]}' twice; expected one of each name"
                )
            rows = [(reader.line_num, row) for row in reader]
    except OSError as error:
        raise DpmixError(
            f"{what} '{path}' cannot be read ({error.strerror}); expected a CSV file with the "
            f"columns {wanted}"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DpmixError(
            f"{what} '{path}' is no CSV file in UTF-8 ({error}); expected the columns {wanted}: "
            "save it as UTF-8"
        ) from None
    if not rows:
        raise DpmixError(f"{what} '{path}' lists no file; expected one line for each image")
    own, whole = path.resolve().parent, root.resolve()
    found = []
    for line, row in rows:
        cells = {key: (value or "").strip() for key, value in row.items() if isinstance(key, str)}
        file = cells.pop(FILE)
        found.append(FileRow(line, file, _name_of(file, own, whole, what), cells))
    return tuple(one for one in columns if one != FILE), found


def _name_of(file: str, own: Path, root: Path, what: str) -> str:
    """What a listed file is called in the data folder, or its bare name."""
    text = plain_name(file.replace("\\", "/"))
    while text.startswith("./"):
        text = text[2:]
    try:
        resolved = (own / text).resolve()
        at_own = resolved.exists()
        at_root = not text.startswith("/") and (root / text).exists()
    except (ValueError, RuntimeError, OSError) as error:
        raise DpmixError(
            f"the list of {what} names {file!r}, which is no path ({one_line(error)}); expected "
            "files of the data folder"
        ) from None
    if resolved.is_relative_to(root) and (at_own or own != root) and not at_root:
        # A path from the list's own folder is that one file, and no bare name.
        return plain_name(resolved.relative_to(root).as_posix())
    return text


def bare_name(name: str) -> str:
    """The last part of a path."""
    return plain_name(name).rpartition("/")[2]


def few(names: Sequence[str], most: int = 3) -> str:
    """The first few names, for messages."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (", ..." if len(names) > most else "")
