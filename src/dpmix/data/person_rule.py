"""Where file names lead to persons: a CSV of files and persons, or a pattern on the path."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpmix.data.file_list import bare_name, few, read_file_list
from dpmix.data.splits import plain_name
from dpmix.errors import DpmixError


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
        bare = Counter(bare_name(name) for name in names)
        alike = [name for name in names if self._by_bare_name(name) and bare[bare_name(name)] > 1]
        listed = self.listed or {}
        twice = [
            name
            for name in names
            if len({listed.get(plain_name(name)), listed.get(bare_name(name))} - {None}) > 1
        ]
        if twice:
            raise DpmixError(
                f"{self.source} lists {len(twice)} file(s) under two persons, once by path and "
                f"once by bare name: {few(twice)}; expected one person for each image"
            )
        if alike:
            raise DpmixError(
                f"{self.source} names files without their folders, and {len(alike)} image(s) share "
                f"a name with another: {few(alike)}; expected paths relative to the data folder"
            )
        missing = [name for name, one in zip(names, found, strict=True) if not one]
        if missing:
            raise DpmixError(
                f"{self.source} gives no person for {len(missing)} image(s): {few(missing)}; "
                "expected one for every training and test image: name them, or move the images out"
            )
        return tuple(one for one in found if one)

    def _by_bare_name(self, name: str) -> bool:
        listed = self.listed or {}
        return plain_name(name) not in listed and bare_name(name) in listed

    def _person(self, name: str) -> str | None:
        if self.listed is not None:
            return self.listed.get(plain_name(name)) or self.listed.get(bare_name(name))
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
    """Read a CSV with the columns `file` and `person`, see `read_file_list`."""
    persons: dict[str, str] = {}
    empty, clash = [], []
    for row in read_file_list(path, root, "persons", ["person"]):
        person = row.values["person"]
        if not person:
            empty.append(row.file)
        elif (other := persons.setdefault(row.name, person)) != person:
            clash.append(f"{row.file} is '{other}' and, in line {row.line}, '{person}'")
    if empty:
        raise DpmixError(f"'{path}': {len(empty)} file(s) have an empty person: {few(empty)}; "
                         "expected a name for each")  # fmt: skip
    if clash:
        raise DpmixError(
            f"'{path}': {len(clash)} file(s) are listed under two persons: {clash[0]}; expected "
            "one person for each image: delete the wrong row, or, if an image shows both, remove "
            "the image with its rows, or give both one name in all of their rows"
        )
    return persons
