"""Weights & Biases, told nothing about the machine, the code or where anything lies."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError, one_line
from dpmix.extras import to_install


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
