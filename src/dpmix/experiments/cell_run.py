"""One run of a sweep, in whatever process: begun, gone on with, or found complete."""

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from dpmix.assembly import assemble
from dpmix.config import Config
from dpmix.errors import DpmixError, one_line
from dpmix.experiments.sweep_file import Cell
from dpmix.fit import fit, run
from dpmix.resume import is_complete
from dpmix.training.checkpoint import newest_step
from dpmix.training.run_folder import RunFolder


@dataclass(frozen=True)
class Outcome:
    """What became of a run.

    Attributes:
        cell: which.
        error: why it failed, if it did.
        warnings: what it warned of.
    """

    cell: Cell
    error: str | None = None
    warnings: tuple[str, ...] = ()


def run_cell(cell: Cell, root: Path, threads: int | None, device: str | None) -> Outcome:
    """Bring the run of `cell` in folder `root` to its end.

    Args:
        cell: the run.
        root: its folder.
        threads: of the processor that it may use; None: as many as there are.
        device: the one to use; None: as its settings say.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            _finish(cell, root, device)
        except DpmixError as error:
            return Outcome(cell, str(error))
        except Exception as error:  # of a library: the other runs are to be made all the same
            return Outcome(cell, f"{type(error).__name__}: {one_line(error)}")
    said = tuple(str(one.message) for one in told if one.category is UserWarning)
    return Outcome(cell, warnings=said)


def _finish(cell: Cell, root: Path, device: str | None) -> None:
    if root.is_dir() and is_complete(root):
        return
    if newest_step(RunFolder(root).checkpoints) is not None:
        fit(resume=root, device=device)
    else:
        settings = cell.settings | ({"device": device} if device else {})
        run(assemble(Config.load(cell.base, **settings, output=os.fspath(root))))
