"""One run of a sweep, in whatever process: begun, gone on with, or found complete."""

import os
import warnings
from contextlib import AbstractContextManager, nullcontext
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


def run_cell(cell: Cell, root: Path, threads: int | None, gpu: int | None) -> Outcome:
    """Bring the run of `cell` in folder `root` to its end.

    Args:
        cell: the run.
        root: its folder.
        threads: of the processor that it may use; None: as many as there are.
        gpu: which, where its settings name no device; None: the first.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        try:
            _finish(cell, root, gpu)
        except DpmixError as error:
            return Outcome(cell, str(error))
        except Exception as error:  # of a library: the other runs are to be made all the same
            return Outcome(cell, f"{type(error).__name__}: {one_line(error)}")
    said = tuple(str(one.message) for one in told if one.category is UserWarning)
    return Outcome(cell, warnings=said)


def _finish(cell: Cell, root: Path, gpu: int | None) -> None:
    if root.is_dir() and is_complete(root):
        return
    with _on(gpu):
        if newest_step(RunFolder(root).checkpoints) is not None:
            fit(resume=root, device=cell.config.run.device)
        else:
            run(assemble(Config.load(cell.base, **cell.settings, output=os.fspath(root))))


def _on(gpu: int | None) -> AbstractContextManager[object]:
    """Let `cuda` be GPU number `gpu` meanwhile.

    It is no setting: a run publishes those, and the number tells which of a private selection's
    runs it was (`tests/experiments/test_selection_run.py`).
    """
    usable = gpu is not None and torch.cuda.is_available()
    return torch.cuda.device(gpu) if usable else nullcontext()
