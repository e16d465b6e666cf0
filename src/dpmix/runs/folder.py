"""A run's folder: who may write to it, and how a run publishes its files.

Guarantees, whenever the process is killed: `model.safetensors` holds the guarantee of the same
weights, and no other file next to it is about other weights; and a run that overwrites another one
leaves the other's model in place until its own replaces it.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from dpmix.errors import DpmixError
from dpmix.files import lock, remove_all, stage, staged_for, to_json, write_text
from dpmix.reports.files import RunFiles
from dpmix.runs.checkpoint import newest_step

_NOTICE = (
    "PRIVATE. The files in this folder were computed from the private training images without "
    "noise.\nThe privacy guarantee does not cover them: do not share them.\n"
)


class RunFolder(RunFiles):
    """The folder that a run writes to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.notice = self.diagnostics / "PRIVATE.txt"
        self._tensorboard = root / "tensorboard"
        self._lock: FileLock | None = None

    def create(self, overwrite: bool) -> None:
        """Make the folder and lock it; what an earlier run published stays, for now."""
        self.refuse_if_taken(overwrite)
        self.reopen()
        try:
            self.refuse_if_taken(overwrite)  # another run may have ended meanwhile
            shutil.rmtree(self._tensorboard, ignore_errors=True)
        except BaseException:
            self.close()
            raise

    def clear_diagnostics(self) -> None:
        """Remove the private files of an earlier run, but for what it needs to be resumed."""
        for path in self.diagnostics.glob("[!.]*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path not in (self.notice, self.data_hash):
                path.unlink(missing_ok=True)

    def refuse_if_taken(self, overwrite: bool) -> None:
        """Refuse a folder that `create` would refuse, unless it is in use; nothing is written."""
        found = {*self.root.iterdir()} if self.root.is_dir() else set()
        own = {*self.published, self.audit, self.diagnostics, self.checkpoints, self._tensorboard}
        others = found - own - {*staged_for(self.published)}
        marked = self.notice.is_file() or (
            self.diagnostics.is_dir() and not any(self.diagnostics.glob("[!.]*"))
        )
        # A run that was stopped before its first step is not in the way.
        begun = self.private_log.exists() or newest_step(self.checkpoints)
        free = overwrite or (not begun and found <= {self.diagnostics, self.checkpoints})
        if not found or (marked and not others and free):
            return
        if overwrite:
            name = f": '{min(others).name}'" if others else ""
            raise DpmixError(
                f"--overwrite replaces a run, but folder '{self.root}' holds something else{name}"
                "; move that, or give another --output"
            )
        resume = ", or --resume it" if self.checkpoints.is_dir() else ""
        raise DpmixError(
            f"run folder '{self.root}' is not empty; give another --output, or --overwrite to "
            f"replace the run in it{resume}"
        )

    def reopen(self) -> None:
        """Lock the folder to resume the run in it."""
        self._take()
        try:
            self.diagnostics.chmod(0o700)
            remove_all(staged_for(self.published))
            write_text(self.notice, _NOTICE)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from writing to the folder for a while."""
        # A folder that was handed out has no diagnostics, and no run that writes to it.
        if self.diagnostics.is_dir():
            self._take()
        try:
            yield
        finally:
            self.close()

    def _take(self) -> None:
        self._lock = lock(self.diagnostics / ".lock", f"run folder '{self.root}'", mode=0o700)

    def close(self) -> None:
        """Let other processes write to the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def publish(self, model: bytes, copies: Mapping[Path, str | None]) -> None:
        """Replace `model.safetensors` and all other published files, from their path to their text.

        A file whose text is None goes.

        Everything is on the disk before anything is replaced. Then the copies of the older weights
        are removed, the weights are replaced with their guarantee, and the new copies follow.
        """
        staged: dict[Path, Path] = {}
        try:
            texts = {path: text.encode() for path, text in copies.items() if text is not None}
            for path, content in {self.model: model, **texts}.items():
                staged[path] = stage(path, content)
            remove_all(copies)
            for path, aside in staged.items():
                aside.replace(path)
        except OSError as error:
            raise DpmixError(
                f"cannot replace the files in '{self.root}': {error}; free some space, or give "
                "another --output"
            ) from None
        finally:
            remove_all(staged.values())

    def log_private(self, record: dict[str, Any]) -> None:
        """Append one line to the private log."""
        try:
            with self.private_log.open("a", encoding="utf-8") as log:
                log.write(to_json(record, indent=None) + "\n")
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.private_log}': {error.strerror}; the last published model is "
                "unharmed: free some space"
            ) from None

    def cut_log(self, step: int) -> None:
        """Keep only the first `step` lines of the private log: the later steps are done again."""
        if self.private_log.is_file():
            lines = self.private_log.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.private_log, "".join(lines[:step]))
