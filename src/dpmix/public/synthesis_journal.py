"""What a pool under construction holds: kept on disk a line an image, so that nothing is lost.

Guarantees: an image counts as drawn only if its file holds the bytes whose hash was written down,
so a run that is killed anywhere goes on where it stopped; and a file's name is written down before
the file is, so that a file which dpmix did not make can be told from one that it did.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from dpmix.atomic_files import remove_all, write_text
from dpmix.errors import DpmixError
from dpmix.public.manifest import FILE_NAME, ImageRecord, Manifest, Part, Session, file_hash
from dpmix.public.pool_files import JOURNAL


class _Head(Part):
    """The first line: what the pool was begun with, and the calls that drew it."""

    settings: dict[str, Any]
    sessions: tuple[Session, ...]


class _Intent(Part):
    """Files that are about to be made."""

    drawing: tuple[str, ...]


_LINE: TypeAdapter[ImageRecord | _Intent] = TypeAdapter(ImageRecord | _Intent)


@dataclass(frozen=True)
class Begun:
    """What is known of a pool.

    Attributes:
        sessions: the calls that drew it.
        images: those that are there and intact, by file.
        own: every file that dpmix made, or was about to make.
    """

    sessions: tuple[Session, ...]
    images: dict[str, ImageRecord]
    own: frozenset[str]


class SynthesisJournal:
    """The settings and the images of one pool folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / JOURNAL

    def read(self, settings: dict[str, Any]) -> Begun:
        """What is there so far; nothing is changed but for half-written files, which go.

        Raises:
            DpmixError: a folder that holds something else, or images drawn with other settings.
        """
        remove_all([*self.root.glob(".*.part"), *self.root.glob("*/.*.part")])
        before, images, own = self._recorded()
        if before is not None and (images or own):
            self._check_same(before.settings, settings)
        return Begun(
            sessions=before.sessions if before else (),
            images={
                image.file: image
                for image in images
                if (self.root / image.file).is_file()
                and file_hash(self.root / image.file) == image.sha256
            },
            own=frozenset(own) | {image.file for image in images},
        )

    def start(self, settings: dict[str, Any], sessions: tuple[Session, ...], begun: Begun) -> None:
        """Write down anew what is there, in front of what is to come.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        lines = [
            _Head(settings=settings, sessions=sessions),
            _Intent(drawing=tuple(sorted(begun.own))),
            *begun.images.values(),
        ]
        write_text(self.path, "".join(f"{line.model_dump_json()}\n" for line in lines))

    def intend(self, files: list[str]) -> None:
        """Write down the names of files before they are made.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        self._append([_Intent(drawing=tuple(files))])

    def add(self, images: Iterable[ImageRecord]) -> None:
        """Write down images whose files are in place.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        self._append(images)

    def finish(self, manifest: Manifest) -> None:
        """Put the manifest in place of the journal.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        write_text(self.root / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")
        self.path.unlink(missing_ok=True)

    def _append(self, lines: Iterable[Part]) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as journal:
                journal.writelines(f"{line.model_dump_json()}\n" for line in lines)
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.path}': {error.strerror}; what is drawn is kept: free some "
                "space and run the same command again"
            ) from None

    def _recorded(self) -> tuple[_Head | None, list[ImageRecord], set[str]]:
        """What is written down; the journal goes before the manifest, which it includes."""
        if self.path.is_file():
            return _parse(self.path)
        manifest = Manifest.read(self.root)
        if manifest is not None:
            head = _Head(settings=manifest.settings, sessions=manifest.sessions)
            return head, list(manifest.images), set()
        if any(not entry.name.startswith(".") for entry in self.root.iterdir()):
            raise DpmixError(
                f"folder '{self.root}' holds something else than a pool that dpmix synthesize "
                "made; give another --output"
            )
        return None, [], set()

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise DpmixError(
                    f"pool '{self.root}' was begun with {name} {old!r}, not {new!r}; give the same "
                    "settings to go on with it, or another --output"
                )


def _parse(path: Path) -> tuple[_Head, list[ImageRecord], set[str]]:
    """Read the journal up to a last line that a killed process left unfinished."""
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    try:
        head = _Head.model_validate(json.loads(first))
    except (json.JSONDecodeError, ValidationError):
        raise DpmixError(
            f"'{path}' is damaged; expected what dpmix synthesize wrote: give another --output"
        ) from None
    images: list[ImageRecord] = []
    own: set[str] = set()
    for line in lines:
        try:
            entry = _LINE.validate_json(line)
        except ValidationError:
            break
        if isinstance(entry, ImageRecord):
            images.append(entry)
        else:
            own.update(entry.drawing)
    return head, images, own
