"""Checkpoints: what a stopped run needs to be resumed, all of it covered by the guarantee.

Guarantees: a checkpoint is on the disk whole or not at all. It holds released weights, what was
computed from them, public facts and no random draw. It is written before anything of its step is
published, so that no published step is ever computed a second time, with fresh noise.
"""

import io
import pickle
import time
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from dpmix.errors import DpmixError
from dpmix.files import remove_all, stage
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.settings import RunConfig
from dpmix.training.loop import History

_FORMAT = 4
_STAGED = ".step-*.part"
_DIGEST_SIZE = sha256().digest_size
_UNREADABLE = (
    OSError, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A run after `step` steps; `weights` lacks a backbone's public ones."""

    run_id: str
    config: str
    plan: PrivacyPlan
    ranks: int
    pool_sha256: str | None
    step: int
    resumed_at: tuple[int, ...]
    weights: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    ema: dict[str, Any]
    history: History

    def write(self, path: Path) -> None:
        """Write the file at `path`, whole or not at all."""
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        held |= {"format": _FORMAT, "plan": asdict(self.plan), "history": asdict(self.history)}
        stream = io.BytesIO()
        torch.save(held, stream)
        content = stream.getvalue()
        stage(path, sha256(content).digest() + content).replace(path)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read the file at `path`; it can run no code."""
        try:
            written = path.read_bytes()
            content = written[_DIGEST_SIZE:]
            if sha256(content).digest() != written[:_DIGEST_SIZE]:
                raise ValueError
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            if held.pop("format") != _FORMAT:
                raise ValueError
        except _UNREADABLE:
            raise DpmixError(
                f"'{path}' is damaged, or no checkpoint of this version of dpmix"
            ) from None
        plan, history = PrivacyPlan(**held.pop("plan")), History.of(held.pop("history"))
        return cls(plan=plan, history=history, **held)


class Checkpoints:
    """The last checkpoints of a run."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self._config = folder, config
        self._written = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is due after `step` steps."""
        every = self._config.checkpoint_every
        minutes = (time.monotonic() - self._written) / 60
        return bool(every and step % every == 0) or minutes > self._config.checkpoint_minutes

    def write(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove all but the last few."""
        self.folder.mkdir(exist_ok=True)
        checkpoint.write(self.folder / f"step-{checkpoint.step:08d}.pt")
        remove_all(_newest_first(self.folder)[self._config.keep_checkpoints :])
        remove_all(self.folder.glob(_STAGED))
        self._written = time.monotonic()

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints after `step`, which could not be read."""
        remove_all(path for path in _newest_first(self.folder) if _step(path) > step)

    def clear(self) -> None:
        """Remove all checkpoints, the newest last, and what a stopped process left."""
        if self.folder.is_dir():
            remove_all([*self.folder.glob(_STAGED), *reversed(_newest_first(self.folder))])
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def newest_step(folder: Path) -> int | None:
    """Step of the newest checkpoint in `folder`, readable or not; None if there is none."""
    paths = _newest_first(folder)
    return _step(paths[0]) if paths else None


def newest_checkpoint(folder: Path) -> Checkpoint:
    """The newest checkpoint in `folder` that can be read."""
    reason = f"no checkpoint in '{folder}'"
    for path in _newest_first(folder):
        try:
            return Checkpoint.read(path)
        except DpmixError as error:
            reason = str(error)
    raise DpmixError(f"{reason}; there is nothing to resume: start the run again")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
