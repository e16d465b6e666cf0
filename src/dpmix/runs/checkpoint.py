"""Checkpoints: what a stopped run needs to go on, and nothing that the guarantee does not cover.

Guarantees: a checkpoint is on the disk whole or not at all; it holds released weights, what was
computed from them, public facts and no random draw. It is written before anything of its step is
published, so that going on from it never releases a published step a second time.
"""

import io
import pickle
import time
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any
import torch
from dpmix.files import remove_all
from dpmix.files import stage
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.settings import RunConfig



FORMAT = 2


SECONDS_PER_MINUTE = 60.0


_STAGED = ".step-*.part"


_DIGEST = sha256().digest_size


@dataclass(frozen=True)
class Checkpoint:
    """A run after some of its steps.

    Attributes:
        run_id: names the run; in its privacy statement too.
        config: its settings as YAML, defaults made explicit.
        plan: its guarantee.
        ranks: how many processes trained.
        pool_sha256: of the public pool, if one is read.
        step: steps released.
        resumed_at: the steps after which the run was stopped and went on.
        weights: of the model, without a backbone's public ones.
        optimizer: its state dict.
        schedule: its state dict.
        ema: the moving average's state.
        history: evaluations so far.
    """

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
    history: dict[str, Any]

    def write(self, path: Path) -> None:
        """Write the file at `path`, whole or not at all.

        Raises:
            DpmixError: as `stage` raises.
        """
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        held |= {"format": FORMAT, "plan": asdict(self.plan)}

        stream = io.BytesIO()
        torch.save(held, stream)
        content = stream.getvalue()

        def fill(aside: Path) -> None:
            aside.write_bytes(sha256(content).digest() + content)

        stage(path, fill).replace(path)

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read the file at `path`; it can run no code.

        Raises:
            DpmixError: no checkpoint, a damaged one, or one of another version.
        """
        try:
            written = path.read_bytes()
        except OSError as error:
            raise DpmixError(f"cannot read checkpoint '{path}' ({error.strerror})") from None
        digest, content = written[:_DIGEST], written[_DIGEST:]
        if sha256(content).digest() != digest:
            raise DpmixError(f"checkpoint '{path}' is damaged or none")
        try:
            held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            version = held.pop("format")
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError):
            raise DpmixError(f"checkpoint '{path}' is none of dpmix") from None
        if version != FORMAT:
            raise DpmixError(
                f"checkpoint '{path}' is of another version of dpmix; resume with that one"
            )
        return cls(plan=PrivacyPlan(**held.pop("plan")), **held)


class Checkpoints:
    """The last few checkpoints of a run, in a folder of their own."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        self.folder, self._config = folder, config
        self._written = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one is to be written after `step` steps."""
        every = self._config.checkpoint_every
        minutes = (time.monotonic() - self._written) / SECONDS_PER_MINUTE
        return bool(every and step % every == 0) or minutes > self._config.checkpoint_minutes

    def write(self, checkpoint: Checkpoint) -> None:
        """Write it, then remove what is older than the last few.

        Raises:
            DpmixError: the disk is full, or the like; the earlier ones are unharmed.
        """
        self.folder.mkdir(exist_ok=True)
        checkpoint.write(self.folder / f"step-{checkpoint.step:08d}.pt")
        remove_all(_newest_first(self.folder)[self._config.keep_checkpoints :])
        remove_all(self.folder.glob(_STAGED))
        self._written = time.monotonic()

    def remove_after(self, step: int) -> None:
        """Remove what is newer than the one of `step`, which could be read: it could not."""
        remove_all(path for path in _newest_first(self.folder) if _step(path) > step)

    def clear(self) -> None:
        """Remove all of them, the newest last, and what a stopped process staged."""
        if self.folder.is_dir():
            remove_all([*self.folder.glob(_STAGED), *reversed(_newest_first(self.folder))])
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def newest_step(folder: Path) -> int | None:
    """The step of the newest in `folder`, readable or not; None where there is none."""
    paths = _newest_first(folder)
    return _step(paths[0]) if paths else None


def newest_checkpoint(folder: Path) -> Checkpoint:
    """The newest in `folder` that can be read.

    Raises:
        DpmixError: there is none.
    """
    reason = f"no checkpoint in '{folder}'"
    for path in _newest_first(folder):
        try:
            return Checkpoint.read(path)
        except DpmixError as error:
            reason = str(error)
    raise DpmixError(f"{reason}; expected one to go on from: start the run again")


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.pt"), reverse=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))
