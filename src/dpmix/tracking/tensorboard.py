"""TensorBoard's event files in the run's folder."""

import time
from collections.abc import Mapping
from pathlib import Path

from dpmix.errors import DpmixError
from dpmix.extras import to_install


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
