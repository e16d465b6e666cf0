"""A CSV that says something of every file: a column `file`, and others.

Guarantee: each row is about one file of the data folder, or about the files of one bare name, and
which it is does not depend on any other row.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError, one_line

_SHOWN = 3


@dataclass(frozen=True)
class FileRow:
    """One row of a list.

    Attributes:
        line: its line in the file, from 2.
        file: the file as the list writes it.
        name: its path relative to the data folder, or its bare name.
        values: the text in the other columns, in Unicode's form NFC.
    """

    line: int
    file: str
    name: str
    values: Mapping[str, str]


def read_file_list(
    path: Path, root: Path, what: str, columns: Sequence[str] | None = None
) -> list[FileRow]:
    """Read a CSV with the column `file` and others.

    A file is a path relative to the data folder or to the list's own folder, an absolute path, or
    the bare name of a file.

    Args:
        path: the list.
        root: the data folder.
        what: what error messages call the list, such as `persons`.
        columns: the other columns to read; None: all that are there, and at least one.

    Raises:
        DpmixError: a list that cannot be read, lacks a column or a row, or names no path.
    """
    expected = f"file and {' and '.join(columns) if columns else 'one or more others'}"
    try:
        # Excel writes a byte order mark; newline="" lets the reader see Windows line ends.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = [*(reader.fieldnames or ())]
            # A spreadsheet can leave an empty column behind.
            others = [one for one in header if one.strip() and one != "file"]
            read = others if columns is None else [*columns]
            if not read or not {"file", *read} <= {*header}:
                raise DpmixError(
                    f"'{path}' has the columns {', '.join(header) or 'of nothing'}; expected "
                    f"{expected}, separated by commas"
                )
            if twice := [one for one in ("file", *read) if header.count(one) > 1]:
                raise DpmixError(
                    f"{what} '{path}' has the column '{twice[0]}' twice; expected one of each name"
                )
            rows = []
            for line, row in enumerate(reader, start=2):
                if None in row or None in row.values():
                    raise DpmixError(
                        f"{what} '{path}': line {line} has another number of cells than the "
                        f"{len(header)} columns; expected one for each: check its commas"
                    )
                rows.append((row["file"].strip(), {one: row[one].strip() for one in read}))
    except OSError as error:
        raise DpmixError(
            f"{what} '{path}' cannot be read ({error.strerror}); expected a CSV file with the "
            f"columns {expected}"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DpmixError(
            f"{what} '{path}' is no CSV file in UTF-8 ({error}); expected the columns {expected}: "
            "save it as UTF-8"
        ) from None
    if not rows:
        raise DpmixError(f"{what} '{path}' lists no file; expected one line for each image")
    own, root = path.resolve().parent, root.resolve()
    return [
        FileRow(line, file, _name_of(file, own, root, what),
                {one: plain_name(text) for one, text in values.items()})
        for line, (file, values) in enumerate(rows, start=2)
    ]  # fmt: skip


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


def rows_of(rows: Sequence[FileRow], names: Sequence[str], what: str) -> list[FileRow | None]:
    """The row of every file in `names`, given by paths relative to the data folder; None without.

    Raises:
        DpmixError: two rows say different things of one file, or a bare name is that of several.
    """
    of_name: dict[str, FileRow] = {}
    for row in rows:
        other = of_name.setdefault(row.name, row)
        _refuse_clash(other, row, what)
    found: list[FileRow | None] = []
    bare = Counter(bare_name(name) for name in names)
    for name in names:
        by_path, by_bare = of_name.get(plain_name(name)), of_name.get(bare_name(name))
        if by_path is not None and by_bare is not None:
            _refuse_clash(by_path, by_bare, what)
        if by_path is None and by_bare is not None and bare[bare_name(name)] > 1:
            raise DpmixError(
                f"{what}: line {by_bare.line} names '{by_bare.file}' without its folder, and "
                f"{bare[bare_name(name)]} images have that name; expected a path relative to the "
                "data folder"
            )
        found.append(by_path or by_bare)
    return found


def _refuse_clash(one: FileRow, other: FileRow, what: str) -> None:
    if one.values != other.values:
        raise DpmixError(
            f"{what}: lines {one.line} and {other.line} say different things of '{other.file}'; "
            "expected one row for each image: delete the wrong one"
        )


def bare_name(name: str) -> str:
    """The name of a file without its folders."""
    return plain_name(name).rpartition("/")[2]


def few(names: Sequence[str]) -> str:
    """The first few of `names`, for an error message."""
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")
