"""A run's folder: who may write to it, and how a run publishes its files.

Guarantees, whenever the process is killed: `model.safetensors` holds the guarantee of the same
weights, and no other file next to it is about other weights; and while a run overwrites another
one, the other's model exists, here or in `<folder>.previous`, until this one has published its own.
"""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from dpmix.errors import DpmixError
from dpmix.files import lock, remove_all, stage_all, staged_for, text_writer, to_json, write_text
from dpmix.reports.files import RunFiles
from dpmix.runs.checkpoint import newest_step

_NOTICE = (
    "PRIVATE. The files in this folder were computed from the private training images without "
    "noise.\nThe privacy guarantee does not cover them: do not share them.\n"
)
_REPLACED = "REPLACED.txt"


class RunFolder(RunFiles):
    """The folder that a run writes to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.notice = self.diagnostics / "PRIVATE.txt"
        self._lock: FileLock | None = None

    @property
    def previous(self) -> Path:
        """Where the run is that this one overwrites, until this one has a model."""
        root = self.root.resolve()
        return root.with_name(f"{root.name}.previous")

    def create(self, overwrite: bool) -> None:
        """Make the folder and lock it; with `overwrite`, rename the folder of an earlier run first.

        Raises:
            DpmixError: as `refuse_if_taken` raises, or the folder can't be made.
            InUseError: another process writes to it.
        """
        self.refuse_if_taken(overwrite)
        if overwrite and self._in_the_way():
            self._take()
            try:
                self._set_aside()
            except OSError as error:
                raise DpmixError(
                    f"cannot rename run folder '{self.root}' to '{self.previous}': "
                    f"{error.strerror}; give another --output"
                ) from None
            finally:
                self.close()
        self.reopen()

    def refuse_if_taken(self, overwrite: bool) -> None:
        """Refuse a folder that `create` would refuse, unless it is in use; nothing is written.

        Raises:
            DpmixError: the folder is not empty or, with `overwrite`, not just a run's.
        """
        if not self._in_the_way():
            return
        if not overwrite:
            resume = ", or --resume it" if self.checkpoints.is_dir() else ""
            raise DpmixError(
                f"run folder '{self.root}' is not empty; give another --output, or --overwrite to "
                f"replace the run in it{resume}"
            )
        own = {*self.published, self.audit, self.diagnostics, self.checkpoints}
        own |= {self.root / "tensorboard", self.root / _REPLACED}
        others = {*self.root.iterdir()} - own - {*staged_for(self.published)}
        if others or not self.notice.is_file():
            found = f": '{min(others).name}'" if others else ""
            raise DpmixError(
                f"--overwrite replaces a run, but folder '{self.root}' holds something else{found}"
                "; move that, or give another --output"
            )
        if self.previous.exists() and not self._previous_is_ours():
            raise DpmixError(
                f"--overwrite renames '{self.root}' to '{self.previous}' until the new run has a "
                "model, but that exists; move it, or give another --output"
            )

    def reopen(self) -> None:
        """Lock the folder to resume the run in it.

        Raises:
            DpmixError: the folder can't be written to.
            InUseError: another process writes to it.
        """
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
        """Keep other processes from writing to the folder for a while.

        Raises:
            InUseError: a run writes to it.
        """
        # A folder that was handed out has no diagnostics, and no run that writes to it.
        if self.diagnostics.is_dir():
            self._take()
        try:
            yield
        finally:
            self.close()

    def close(self) -> None:
        """Let other processes write to the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def publish(self, model: bytes, copies: Mapping[Path, str]) -> None:
        """Replace all published files.

        Everything is on the disk before anything is replaced. Then the copies of the older weights
        are removed, the weights are replaced with their guarantee, and the new copies follow.

        Args:
            model: content of `model.safetensors`.
            copies: text of every other file.

        Raises:
            DpmixError: the disk is full, for example; the files of the last time are unharmed.
        """
        staged = stage_all(
            {self.model: lambda aside: aside.write_bytes(model)}
            | {path: text_writer(text) for path, text in copies.items()}
        )
        try:
            remove_all(copies)
            for path, aside in staged.items():
                aside.replace(path)
            if self._previous_is_ours():
                _remove(self.previous)
        except OSError as error:
            raise DpmixError(
                f"cannot replace the files in '{self.root}': {error}; free some space, or give "
                "another --output"
            ) from None
        finally:
            remove_all(staged.values())

    def log_private(self, record: dict[str, Any]) -> None:
        """Append one line to the private log.

        Raises:
            DpmixError: the disk is full, for example; published files are unharmed.
        """
        try:
            with self.private_log.open("a", encoding="utf-8") as log:
                log.write(to_json(record, indent=None) + "\n")
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.private_log}': {error.strerror}; the last published model is "
                "unharmed: free some space"
            ) from None

    def cut_log(self, step: int) -> None:
        """Keep only the first `step` lines of the private log: the later steps are done again.

        Raises:
            DpmixError: as `write_text` raises.
        """
        if self.private_log.is_file():
            lines = self.private_log.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.private_log, "".join(lines[:step]))

    def _take(self) -> None:
        self._lock = lock(self.diagnostics / ".lock", f"run folder '{self.root}'", mode=0o700)

    def _in_the_way(self) -> bool:
        """Whether the folder holds more than a run that was stopped before its first step."""
        if not self.root.is_dir() or not any(self.root.iterdir()):
            return False
        started = self.private_log.exists() or newest_step(self.checkpoints)
        only = {*self.root.iterdir()} <= {self.diagnostics, self.checkpoints}
        ours = self.notice.is_file() or not any(self.diagnostics.glob("[!.]*"))
        return bool(started) or not only or not ours

    def _previous_is_ours(self) -> bool:
        """Whether `previous` is what an overwrite left: marked, or empty but for its removal."""
        path = self.previous
        return path.is_dir() and ((path / _REPLACED).is_file() or not any(path.iterdir()))

    def _set_aside(self) -> None:
        """Rename the folder to `previous`.

        After an overwrite that was killed there are two runs. If this one has no model yet, the
        other one stays in `previous` and this one is started again.
        """
        if self.previous.exists():
            if not self.model.is_file():
                self.private_log.unlink(missing_ok=True)
                shutil.rmtree(self.root / "tensorboard", ignore_errors=True)
                return
            _remove(self.previous)
        note = f"'{self.root.name}' replaces this run, and removes it once it has a model.\n"
        (self.root / _REPLACED).write_text(note, encoding="utf-8")
        root = self.root.resolve()  # which may be where a link leads
        root.rename(self.previous)
        root.mkdir()


def _remove(root: Path) -> None:
    """Remove a run's folder; the file that marks it for removal goes last."""
    for path in sorted(root.iterdir(), key=lambda path: path.name == _REPLACED):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    root.rmdir()
