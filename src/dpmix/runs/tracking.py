"""Curves of a run in TensorBoard and Weights & Biases.

Guarantee: no point tells when it was made, since the time of a step tells how many examples were
drawn; and nothing is sent about the machine, the code or where anything is stored.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError, one_line, to_install
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder


class TensorBoard:
    """Curves as TensorBoard's event files, all points with the same wall time.

    Points after the last `step` of a resumed run are replaced.
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
        """Add a point to each of the curves that `values` names."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step, walltime=self._began)
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """Curves as one run of a project of Weights & Biases; a resumed run continues it.

    Points are sent when the run ends or stops, since wandb notes when each arrives. Its own files
    in `folder` name paths and the machine; `config` is shown with the curves.
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
        """Hold a point of each of the curves that `values` names, until `close`."""
        self._held.append((step, dict(values)))

    def close(self) -> None:
        """Send all points."""
        for step, values in self._held:
            self._run.log(values, step=step)
        self._run.finish()


Tracker = TensorBoard | WeightsAndBiases


def open_trackers(config: Config, folder: RunFolder, run_id: str, step: int) -> list[Tracker]:
    """Start the trackers that the settings ask for, or continue them after `step` steps."""
    opened: list[Tracker] = []
    if config.run.tensorboard:
        opened.append(TensorBoard(folder.root / "tensorboard", step))
    if config.run.wandb:
        sections = config.published()  # but no machine or data set
        kept = ("views", "model", "privacy", "optimizer")
        shown = {leaf: value for name in kept for leaf, value in sections[name].items()}
        if config.privacy.spend is not None:
            # It may follow from the private count, which leaves with the model and its statement.
            del shown["learning_rate"]
        opened.append(WeightsAndBiases(config.run.wandb, run_id, folder.diagnostics, shown))
    return opened
