"""A run's folder: its files' names, who may write to it, and how a save replaces the last one.

Guarantees, whenever the process is stopped: no statement, metrics, card or page stands beside
weights that it understates; and a model that was there is there, or in `previous/`, until another
one is. An audit that somebody put beside them is left alone (`audit/of_run.py` says whose it is).
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from filelock import FileLock, Timeout
from dpmix.files import Writer
from dpmix.files import remove_all
from dpmix.files import stage_all
from dpmix.files import staged_for
from dpmix.files import write_text
from dpmix.errors import DpmixError
from dpmix.runs.checkpoint import newest_step
from dpmix.files import to_json



@dataclass(frozen=True)
class Released:
    """What a folder's privacy statement says was released.

    Attributes:
        run_id: of the run.
        steps: of the model beside it.
        complete: whether those are all.
        weights_sha256: of the model's file.
    """

    run_id: str
    steps: int
    complete: bool
    weights_sha256: str


class InUseError(DpmixError):
    """Another process writes to the folder."""


class RunFolder:
    """The files of one run.

    `diagnostics/` holds what was computed from private data without noise; everything else may be
    handed out. `checkpoints/` is there until the run is complete.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.model = root / "model.safetensors"
        self.config = root / "config.yaml"
        self.privacy = root / "privacy.json"
        self.metrics = root / "metrics.json"
        self.card = root / "MODEL_CARD.md"
        self.report = root / "report.html"
        self.audit = root / "audit.json"
        self.previous = root / "previous"
        self.checkpoints = root / "checkpoints"
        self.diagnostics = root / "diagnostics"
        self.private_log = self.diagnostics / "steps.jsonl"
        self.private_notice = self.diagnostics / "PRIVATE.txt"
        self.data_hash = self.diagnostics / "data.sha256"
        self._lock = FileLock(self.diagnostics / ".lock", timeout=0)
        self._of_this_run = False
        self._logged = False

    def create(self, overwrite: bool) -> None:
        """Make the folder and lock it; an earlier run's model stays until `save` has another.

        Raises:
            DpmixError: the folder is not empty (or, with `overwrite`, holds no run), in use by
                another run, or can't be made.
        """
        with self._opening():
            self.refuse_if_taken(overwrite)
            self._enter()

    def refuse_if_taken(self, overwrite: bool) -> None:
        """Refuse a folder that `create` would refuse, in use aside; nothing is written.

        Raises:
            DpmixError: the folder is not empty (or, with `overwrite`, holds no run).
        """
        if self.root.is_dir() and any(self.root.iterdir()) and not self._never_trained():
            self._refuse_unless_a_run(overwrite)

    def refuse_if_missing(self, needed: Path) -> None:
        """Refuse a folder without the file `needed`, which every run writes with its first model.

        Raises:
            DpmixError: no run's folder, or of a run that was stopped before.
        """
        if needed.is_file():
            return
        if self.checkpoints.is_dir():
            raise DpmixError(
                f"the run in '{self.root}' was stopped before its first evaluation and has no "
                f"model yet; go on with it: dpmix train --resume {self.root}"
            )
        raise DpmixError(
            f"'{self.root}' is no run folder: it has no {needed.name}; give a run's folder"
        )

    def reopen(self, run_id: str) -> None:
        """Lock the folder to go on with the run in it.

        Raises:
            DpmixError: in use by another run, or it can't be written to.
        """
        with self._opening():
            self._enter()
            released = self.released()
            self._of_this_run = released is not None and released.run_id == run_id

    def cut_log(self, step: int) -> None:
        """Keep the private log's lines of the first `step` steps; what came later is done again.

        Raises:
            DpmixError: as `stage` raises.
        """
        if step and self.private_log.is_file():
            lines = self.private_log.read_text(encoding="utf-8").splitlines(keepends=True)
            write_text(self.private_log, "".join(lines[:step]))
            self._logged = True

    def released(self) -> Released | None:
        """What the folder's privacy statement says was released; None where there is none.

        Raises:
            DpmixError: a statement that can't be read.
        """
        try:
            said = json.loads(self.privacy.read_text(encoding="utf-8"))
            return Released(
                said.get("run_id", ""),
                int(said["steps"]),
                bool(said["complete"]),
                said.get("weights_sha256", ""),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise DpmixError(
                f"cannot read '{self.privacy}' ({error}); expected the run's privacy statement: "
                "restore it, or start the run again"
            ) from None

    def _enter(self) -> None:
        self.diagnostics.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.diagnostics.chmod(0o700)
        self._lock.acquire()
        remove_all(staged_for(self.handed_out()))
        self._write_notice()

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Say why a folder can't be had, and leave no lock behind."""
        try:
            yield
        except Timeout:
            raise InUseError(
                f"run folder '{self.root}' is in use by another run; wait for it or stop it, or "
                "give another --output"
            ) from None
        except OSError as error:
            self.close()
            raise DpmixError(
                f"cannot make run folder '{self.root}': {error.strerror}; give another --output"
            ) from None
        except DpmixError:
            self.close()
            raise

    def _write_notice(self) -> None:
        write_text(
            self.private_notice,
            "PRIVATE. The files in this folder were computed from the private training images "
            "without noise.\nThe privacy guarantee does not cover them: do not share them.\n",
        )

    def _never_trained(self) -> bool:
        """Whether a run was stopped here before its first step, while it embedded views, say."""
        return (
            {*self.root.iterdir()} <= {self.diagnostics, self.checkpoints}
            and self.private_notice.is_file()
            and not self.private_log.exists()
            and not newest_step(self.checkpoints)
        )

    def _refuse_unless_a_run(self, overwrite: bool) -> None:
        if not overwrite:
            stopped = self.checkpoints.is_dir()
            raise DpmixError(
                f"run folder '{self.root}' is not empty; give another --output, or --overwrite to "
                f"replace the run in it{', or --resume it instead' if stopped else ''}"
            )
        if not self.private_notice.is_file():
            raise DpmixError(
                f"--overwrite replaces a run, but folder '{self.root}' holds something else; give "
                "another --output"
            )

    def close(self) -> None:
        """Let others write to the folder."""
        self._lock.release()

    def save(self, *, config: Writer, privacy: Writer, model: Writer, metrics: Writer,
             card: Writer, report: Writer) -> None:  # fmt: skip
        """Replace all files of the last save.

        Everything is on the disk before anything is replaced. Then, in this order: metrics, card
        and page of older weights go; the statement, of an epsilon that is never smaller than the
        last one, comes before its weights; metrics, card and page come last. An earlier run's files
        move to `previous/` first, and are removed once all is in place.

        Raises:
            DpmixError: the disk is full, or the like; the last save is unharmed.
        """
        staged = stage_all(
            {
                self.config: config,
                self.privacy: privacy,
                self.model: model,
                self.metrics: metrics,
                self.card: card,
                self.report: report,
            }
        )
        try:
            if not self._of_this_run:
                self._set_aside()
            for stale in (self.metrics, self.card, self.report):
                stale.unlink(missing_ok=True)
            for path, aside in staged.items():
                aside.replace(path)
        except OSError as error:
            raise DpmixError(
                f"cannot replace the files in '{self.root}': {error}; the earlier model is there "
                "or in previous/: give another --output"
            ) from None
        finally:
            remove_all(staged.values())
        if not self._of_this_run:
            self._remove_previous()
            self._of_this_run = True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep runs from writing to the folder, without beginning or going on with one.

        Raises:
            DpmixError: in use by a run.
        """
        with self._opening():
            # A folder that was handed out has neither diagnostics nor a run that writes to it.
            if self.diagnostics.is_dir():
                self._lock.acquire()
        try:
            yield
        finally:
            self.close()

    def handed_out(self) -> list[Path]:
        """What a run publishes, weights first."""
        return [self.model, self.privacy, self.metrics, self.card, self.report, self.config]

    def _set_aside(self) -> None:
        """Move an earlier run's files, and only those, to `previous/`.

        Files without weights are what a run left that was stopped right here: they go, and what it
        had set aside stays.
        """
        if not self.model.exists():
            for path in self.handed_out():
                path.unlink(missing_ok=True)
            return
        self._remove_previous()
        self.previous.mkdir(exist_ok=True)
        weights, *described = self.handed_out()
        # Copied before the weights move, so that `previous/` never holds weights alone.
        for path in described:
            if path.exists():
                shutil.copyfile(path, self.previous / path.name)
        weights.replace(self.previous / weights.name)
        for path in described:
            path.unlink(missing_ok=True)

    def _remove_previous(self) -> None:
        if self.previous.is_dir():
            for path in self.handed_out():
                (self.previous / path.name).unlink(missing_ok=True)
            if not any(self.previous.iterdir()):
                self.previous.rmdir()

    def log_private(self, record: dict[str, Any]) -> None:
        """Append one line to the private log; the first takes the place of an earlier run's.

        Raises:
            DpmixError: the disk is full, or the like; what was saved before is unharmed.
        """
        try:
            with self.private_log.open("a" if self._logged else "w", encoding="utf-8") as log:
                self._logged = True
                log.write(to_json(record, indent=None) + "\n")
        except OSError as error:
            raise DpmixError(
                f"cannot write '{self.private_log}': {error.strerror}; the last saved model is "
                "unharmed: free some space"
            ) from None
