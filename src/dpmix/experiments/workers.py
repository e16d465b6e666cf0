"""Where the runs of a sweep happen: in processes of this machine, or as jobs of a cluster."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from dpmix.errors import DpmixError, one_line
from dpmix.experiments.cell_run import Outcome, run_cell
from dpmix.experiments.sweep_file import Cell
from dpmix.extras import to_install

Runs = list[tuple[Cell, Path]]
"""Runs and their folders."""


def default_jobs() -> int:
    """Runs at once: one for each GPU, else one for every two cores."""
    return torch.cuda.device_count() or max(1, (os.cpu_count() or 1) // 2)


def on_this_machine(runs: Runs, jobs: int) -> Iterator[Outcome]:
    """Run `jobs` at once, each in a process of its own; yield outcomes as they come.

    Each has its share of the cores, and the GPUs are dealt out in turn.

    Raises:
        DpmixError: joblib is not installed, or one of the processes was killed.
    """
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import BrokenProcessPool
    except ImportError:
        raise DpmixError(f"a sweep needs joblib; {to_install('sweep')}") from None
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    try:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
            delayed(run_cell)(cell, root, threads, _device(index, cell))
            for index, (cell, root) in enumerate(runs)
        )
    except BrokenProcessPool:
        raise DpmixError(
            "a process of the sweep was killed, perhaps for want of memory; what is done is kept: "
            "give the same command again, with fewer --jobs"
        ) from None


def on_cluster(runs: Runs, cluster: str, logs: Path, options: dict[str, Any]) -> Iterator[Outcome]:
    """Submit each run as a job; yield outcomes as they come.

    Args:
        runs: to be made.
        cluster: of submitit: slurm, or local (processes of this machine).
        logs: folder for what the jobs print.
        options: of submitit's executor, such as timeout_min or slurm_partition.

    Raises:
        DpmixError: submitit is not installed, or the cluster takes no jobs or not these options.
    """
    try:
        import submitit
    except ImportError:
        raise DpmixError(f"--cluster needs submitit; {to_install('sweep')}") from None
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**options)
        with executor.batch():
            jobs = [executor.submit(run_cell, cell, root, None, None) for cell, root in runs]
    except (NameError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise DpmixError(f"cluster '{cluster}' takes no jobs: {one_line(error)}") from None
    cells = {job: cell for job, (cell, _) in zip(jobs, runs, strict=True)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
        yield _outcome(job, cells[job], logs)


def _outcome(job: Any, cell: Cell, logs: Path) -> Outcome:
    error = job.exception()
    if error is None:
        result: Outcome = job.result()
        return result
    return Outcome(cell, f"job {job.job_id} died ({one_line(error)}); see its log in '{logs}'")


def _device(index: int, cell: Cell) -> int | None:
    """The number of one of several GPUs, where the run's settings name none."""
    count = torch.cuda.device_count()
    return index % count if count > 1 and cell.config.run.device == "auto" else None
