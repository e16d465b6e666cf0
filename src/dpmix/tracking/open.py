"""The trackers that the settings ask for."""

import warnings
from typing import Any

from dpmix.config import Config
from dpmix.errors import DpmixError
from dpmix.tracking.tensorboard import TensorBoard
from dpmix.tracking.tracker import Tracker
from dpmix.tracking.wandb import WeightsAndBiases
from dpmix.training.run_folder import RunFolder


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
