"""Where file names lead to persons: a CSV of files and persons, or a pattern on the path."""

import csv
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError, one_line

_SHOWN = 3


@dataclass(frozen=True)
class PersonRule:
    """Where file names lead to persons: a list of files, or a pattern on the path.

    Attributes:
        listed: a file's path, or its bare name -> its person; None: `pattern` decides.
        pattern: a regular expression; its groups, or else its match, is the person.
        source: what error messages call the rule.
    """

    listed: Mapping[str, str] | None
    pattern: "re.Pattern[str] | None"
    source: str

    def of(self, names: Sequence[str]) -> tuple[str, ...]:
        """The person of every file, given by its path relative to the data folder.

        Raises:
            DpmixError: files without a person, with their number and examples.
        """
        found = [self._person(name) for name in names]
        bare = Counter(_bare(name) for name in names)
        alike = [name for name in names if self._by_bare_name(name) and bare[_bare(name)] > 1]
        listed = self.listed or {}
        twice = [
            name
            for name in names
            if len({listed.get(plain_name(name)), listed.get(_bare(name))} - {None}) > 1
        ]
        if twice:
            raise DpmixError(
                f"{self.source} lists {len(twice)} file(s) under two persons, once by path and "
                f"once by bare name: {_few(twice)}; expected one person for each image"
            )
        if alike:
            raise DpmixError(
                f"{self.source} names files without their folders, and {len(alike)} image(s) share "
                f"a name with another: {_few(alike)}; expected paths relative to the data folder"
            )
        missing = [name for name, one in zip(names, found, strict=True) if not one]
        if missing:
            raise DpmixError(
                f"{self.source} gives no person for {len(missing)} image(s): {_few(missing)}; "
                "expected one for every training and test image: name them, or move the images out"
            )
        return tuple(one for one in found if one)

    def _by_bare_name(self, name: str) -> bool:
        listed = self.listed or {}
        return plain_name(name) not in listed and _bare(name) in listed

    def _person(self, name: str) -> str | None:
        if self.listed is not None:
            return self.listed.get(plain_name(name)) or self.listed.get(_bare(name))
        assert self.pattern is not None
        match = self.pattern.search(plain_name(name))
        if match is None:
            return None
        # Of alternatives, those that did not match have no part.
        parts = [one.strip() for one in (match.groups() or (match[0],)) if one]
        return "/".join(filter(None, parts)) or None


def person_rule(csv_path: Path | None, pattern: str | None, root: Path) -> PersonRule | None:
    """The rule that the settings give for the files in the folder `root`; None without one.

    Raises:
        DpmixError: both are given, a pattern that is none, or a file as `_read_list` refuses.
    """
    if csv_path is not None and pattern is not None:
        raise DpmixError("persons and person_pattern were both given; give one of them")
    if csv_path is not None:
        return PersonRule(_read_list(csv_path, root), None, f"'{csv_path}'")
    if pattern is None:
        return None
    try:
        return PersonRule(None, re.compile(pattern), f"person_pattern '{pattern}'")
    except re.error as error:
        raise DpmixError(
            f"person_pattern '{pattern}' is no regular expression ({error}); expected one such as "
            r"'patient(\d+)'"
        ) from None


def _read_list(path: Path, root: Path) -> dict[str, str]:
    """Read a CSV with the columns `file` and `person`.

    A file is a path relative to the data folder or to the list's own folder, an absolute path, or
    the bare name of a file.
    """
    rows = _rows(path)
    persons: dict[str, str] = {}
    empty, clash = [], []
    for line, (file, person) in enumerate(rows, start=2):
        if not person:
            empty.append(file)
            continue
        name = _name_of(file, path.resolve().parent, root.resolve())
        if (other := persons.setdefault(name, person)) != person:
            clash.append(f"{file} is '{other}' and, in line {line}, '{person}'")
    if empty:
        raise DpmixError(f"'{path}': {len(empty)} file(s) have an empty person: {_few(empty)}; "
                         "expected a name for each")  # fmt: skip
    if clash:
        raise DpmixError(
            f"'{path}': {len(clash)} file(s) are listed under two persons: {clash[0]}; expected "
            "one person for each image: delete the wrong row, or, if an image shows both, remove "
            "the image with its rows, or give both one name in all of their rows"
        )
    return persons


def _rows(path: Path) -> list[tuple[str, str]]:
    try:
        # Excel writes a byte order mark; newline="" lets the reader see Windows line ends.
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = [*(reader.fieldnames or ())]
            if not {"file", "person"} <= {*columns}:
                raise DpmixError(
                    f"'{path}' has the columns {', '.join(columns) or 'of nothing'}; expected file "
                    "and person, separated by commas"
                )
            rows = [((row["file"] or "").strip(), (row["person"] or "").strip()) for row in reader]
    except OSError as error:
        raise DpmixError(
            f"persons '{path}' cannot be read ({error.strerror}); expected a CSV file with the "
            "columns file and person"
        ) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DpmixError(
            f"persons '{path}' is no CSV file in UTF-8 ({error}); expected the columns file and "
            "person: save it as UTF-8"
        ) from None
    if not rows:
        raise DpmixError(f"persons '{path}' lists no file; expected one line for each image")
    return [(file, plain_name(person)) for file, person in rows]


def _name_of(file: str, own: Path, root: Path) -> str:
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
            f"the list of persons names {file!r}, which is no path ({one_line(error)}); expected "
            "files of the data folder"
        ) from None
    if resolved.is_relative_to(root) and (at_own or own != root) and not at_root:
        # A path from the list's own folder is that one file, and no bare name.
        return plain_name(resolved.relative_to(root).as_posix())
    return text


def _bare(name: str) -> str:
    return plain_name(name).rpartition("/")[2]


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")
