"""What a pool under construction holds: kept on disk a line an image, so that nothing is lost.

Guarantee: an image counts as drawn only if its file holds the bytes whose hash was written down, so
a run that is killed anywhere goes on where it stopped.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpmix.atomic_files import remove_all, write_text
from dpmix.errors import DpmixError
from dpmix.public.manifest import FILE_NAME, ImageRecord, Manifest, file_hash
from dpmix.public.pool_files import JOURNAL


class SynthesisJournal:
    """The settings and the images of one pool folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / JOURNAL

    def begin(self, settings: dict[str, Any]) -> dict[str, ImageRecord]:
        """Start or go on; return the images that are there and intact, by file.

        Raises:
            DpmixError: a folder that holds something else, or a pool made with other settings.
        """
        before, images = self._read()
        if before is not None:
            self._check_same(before, settings)
        # Half-written files of a process that was killed.
        remove_all(self.root.glob("*/.*.part"))
        intact = {
            image.file: image
            for image in images
            if (self.root / image.file).is_file()
            and file_hash(self.root / image.file) == image.sha256
        }
        lines = [settings, *(image.model_dump() for image in intact.values())]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        return intact

    def add(self, images: Iterable[ImageRecord]) -> None:
        """Write down images whose files are in place.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        try:
            with self.path.open("a", encoding="utf-8") as journal:
                journal.writelines(json.dumps(image.model_dump()) + "\n" for image in images)
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.path}': {error.strerror}; what is drawn is kept: free some "
                "space and run the same command again"
            ) from None

    def finish(self, manifest: Manifest) -> None:
        """Put the manifest in place of the journal.

        Raises:
            DpmixError: the disk is full, or the like.
        """
        write_text(self.root / FILE_NAME, manifest.model_dump_json(indent=2) + "\n")
        self.path.unlink()

    def _read(self) -> tuple[dict[str, Any] | None, list[ImageRecord]]:
        """The settings and images written down so far; the journal goes before the manifest."""
        if self.path.is_file():
            return _parse(self.path)
        manifest = Manifest.read(self.root)
        if manifest is not None:
            return manifest.settings, list(manifest.images)
        if any(not entry.name.startswith(".") for entry in self.root.iterdir()):
            raise DpmixError(
                f"folder '{self.root}' holds something else than a pool that dpmix synthesize "
                "made; give another --output"
            )
        return None, []

    def _check_same(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in sorted(before.keys() | now.keys()):
            old, new = before.get(name), now.get(name)
            if old != new:
                raise DpmixError(
                    f"pool '{self.root}' was begun with {name} {old!r}, not {new!r}; give the same "
                    "settings to go on with it, or another --output"
                )


def _parse(path: Path) -> tuple[dict[str, Any], list[ImageRecord]]:
    """Read the journal up to a last line that a killed process left unfinished."""
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        settings = json.loads(lines[0])
    except (IndexError, json.JSONDecodeError):
        raise DpmixError(
            f"'{path}' is damaged; expected what dpmix synthesize wrote: give another --output"
        ) from None
    images = []
    for line in lines[1:]:
        try:
            images.append(ImageRecord.model_validate_json(line))
        except ValidationError:
            break
    return settings, images
