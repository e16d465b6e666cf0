"""A run's folder: its files' names, and writing that never leaves half a file behind."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError


class RunFolder:
    """The files of one run.

    `diagnostics/` holds what was computed from private data without noise; everything else may be
    handed out.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model.safetensors"
        self.config = root / "config.yaml"
        self.privacy = root / "privacy.json"
        self.metrics = root / "metrics.json"
        self.card = root / "MODEL_CARD.md"
        self.diagnostics = root / "diagnostics"
        self.private_log = self.diagnostics / "steps.jsonl"
        self.private_notice = self.diagnostics / "PRIVATE.txt"

    def create(self, overwrite: bool) -> None:
        """Make the folder; an earlier run's model stays in it until `begin` takes its place.

        Raises:
            DpmixError: the folder is not empty, or can't be made.
        """
        try:
            if self.root.is_dir() and any(self.root.iterdir()):
                self._refuse_unless(overwrite)
            self.diagnostics.mkdir(parents=True, exist_ok=True)
            self.private_log.unlink(missing_ok=True)
        except OSError as error:
            raise DpmixError(
                f"cannot make run folder '{self.root}': {error.strerror}; give another --output"
            ) from None
        write_text(
            self.private_notice,
            "PRIVATE. The files in this folder were computed from the private training images "
            "without noise.\nThe privacy guarantee does not cover them: do not share them.\n",
        )

    def _refuse_unless(self, overwrite: bool) -> None:
        if not overwrite:
            raise DpmixError(
                f"run folder '{self.root}' is not empty; give another --output, or --overwrite to "
                "replace the run in it"
            )

    def begin(self, config: str) -> None:
        """Remove an earlier run's files, and only those, and write this run's settings.

        Called when this run has a model to put there. The earlier model goes first, so that no
        statement of this run ever stands beside it.
        """
        for path in (self.model, self.privacy, self.metrics, self.card, self.config):
            path.unlink(missing_ok=True)
        write_text(self.config, config)

    def log_private(self, record: dict[str, Any]) -> None:
        """Append one line to the private log.

        Raises:
            DpmixError: the disk is full, or the like; what was saved before is unharmed.
        """
        try:
            with self.private_log.open("a", encoding="utf-8") as log:
                log.write(to_json(record, indent=None) + "\n")
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.private_log}': {error.strerror}; the last saved model is "
                "unharmed: free some space"
            ) from None


def write_aside(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it there: the old file survives a failure.

    Raises:
        DpmixError: the disk is full, the folder read-only, or the like.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        kept = "the earlier file is unharmed" if path.exists() else "nothing was written"
        raise DpmixError(
            f"cannot write '{path}': {error.strerror or error}; {kept}: free some space or give "
            "another --output"
        ) from None
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` whole or not at all."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    write_aside(path, write)


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON without the non-standard Infinity and NaN: they become strings."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
