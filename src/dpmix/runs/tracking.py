"""The trackers that the settings ask for."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from dpmix.errors import DpmixError, one_line, to_install
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder

# What a run asks of whatever draws its curves.


# Checkable: the tests check annotations while the code runs.
@runtime_checkable
class Tracker(Protocol):
    """Takes named numbers by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curves in `values`."""

    def close(self) -> None:
        """Write what is left."""


# TensorBoard's event files in the run's folder.


class TensorBoard:
    """Curves in `folder`; a run that goes on after `step` takes the place of what came later.

    Every point has the time at which this began as its wall time: its own would clock the steps.

    Raises:
        DpmixError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise DpmixError(
                f"--tensorboard needs TensorBoard; {to_install('tracking')}, or leave it out"
            ) from None
        self._began = time.time()
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curves in `values`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=self._began)
        self._writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


# Weights & Biases, told nothing about the machine, the code or where anything lies.


class WeightsAndBiases:
    """One run of `project`, under the run's own id; a run that goes on adds to it.

    Points are sent when the run ends or stops: wandb notes when each arrives, which would clock the
    steps. A killed process has sent none of its own.

    WANDB_MODE=offline keeps it on this machine until `wandb sync`.

    Args:
        project: its name.
        run_id: of the run.
        folder: for wandb's own files.
        config: public settings to show beside the curves.

    Raises:
        DpmixError: wandb is not installed, or can't begin.
    """

    def __init__(self, project: str, run_id: str, folder: Path, config: dict[str, Any]) -> None:
        self._held: list[tuple[int, dict[str, float]]] = []
        try:
            import wandb
        except ImportError:
            raise DpmixError(
                f"--wandb needs wandb; {to_install('tracking')}, or leave it out"
            ) from None
        quiet = wandb.Settings(
            console="off", disable_code=True, disable_git=True, silent=True,
            host="undisclosed", x_disable_meta=True, x_disable_stats=True,
            x_save_requirements=False,
        )  # fmt: skip
        try:
            self._run = wandb.init(
                project=project, id=run_id, resume="allow", dir=str(folder), config=config,
                settings=quiet,
            )  # fmt: skip
        except Exception as error:
            raise DpmixError(
                f"--wandb {project}: {one_line(error)}; log in with 'wandb login', or set "
                "WANDB_MODE=offline"
            ) from None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Hold a point of the curves in `values` until `close`."""
        self._held.append((step, dict(values)))

    def close(self) -> None:
        """Send all points."""
        for step, values in self._held:
            self._run.log(values, step=step)
        self._run.finish()


def open_trackers(config: Config, folder: RunFolder, run_id: str, step: int) -> list[Tracker]:
    """Begin, or go on after `step` steps.

    Raises:
        DpmixError: a library that is not installed, or can't begin.
    """
    opened: list[Tracker] = []
    private = config.run.log_private_diagnostics
    if private and not (config.run.tensorboard or config.run.wandb):
        raise DpmixError(
            "log_private_diagnostics adds to curves, and there are none; give --tensorboard or "
            "--wandb too, or leave it out: diagnostics/steps.jsonl has the same numbers"
        )
    if private and config.run.wandb:
        warnings.warn(
            "training loss and gradient norms, computed from private images WITHOUT noise, go to "
            f"the Weights & Biases project '{config.run.wandb}'",
            stacklevel=2,
        )
    if config.run.tensorboard:
        place = folder.diagnostics if private else folder.root
        opened.append(TensorBoard(place / "tensorboard", step))
    if config.run.wandb:
        # Its own files name paths and the machine.
        opened.append(WeightsAndBiases(config.run.wandb, run_id, folder.diagnostics, shown(config)))
    return opened


def shown(config: Config) -> dict[str, Any]:
    """Settings that name no path, host or data set."""
    sections = config.published()
    return {
        leaf: value
        for section in ("views", "model", "privacy", "optimizer")
        for leaf, value in sections[section].items()
    }
