"""Run a sweep: every run once, whatever stopped the sweep before; then one CSV of all results.

Runs happen in processes of this machine (joblib) or as jobs of a cluster (submitit).
"""

import json
import os
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dpmix.errors import DpmixError, one_line, to_install
from dpmix.files import to_json, write_text
from dpmix.reports.facts import RunFacts
from dpmix.runs.build import build_run
from dpmix.runs.checkpoint import newest_step
from dpmix.runs.config import Config
from dpmix.runs.fit import fit, train_run
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import read_facts
from dpmix.runs.resume import is_complete
from dpmix.sweeps.grid import Sweep, SweepRun

ResultRow = dict[str, Any]
SCORES = ("accuracy", "mean_AUROC")
"""The score of a run: of images with one class, or with several labels."""
FACTS = (*SCORES, "worst_class_accuracy", "worst_label_AUROC", "calibration_error")
"""Measured numbers that a table or a plot can show, where the runs have them."""
VIEWS = ("base_views", "mixed_views", "public_views")
"""Numbers of views of an example, by kind."""

RESULTS, TRIES, RUNS, BEST = "results.csv", "tuning.csv", "runs", "best"
"""In a sweep's folder: the CSV of its runs, that of its tries, the folders of all runs, and the run
that a private selection published."""


def row_of(run: SweepRun, facts: RunFacts) -> ResultRow:
    """The results of a complete run, in the order of the CSV's columns."""
    told, measured, views = facts.statement, facts.metrics, facts.views
    several = measured.accuracy is None
    score, worst = SCORES[several], FACTS[len(SCORES) + several]
    return {
        "row": run.row,
        "data": None,
        "model": measured.model,
        "method": told.method,
        "epsilon": run.config.privacy.epsilon,
        "seed": run.config.run.seed,
        **run.swept,
    } | {
        "data": facts.data_name,  # instead of what was swept, which can be a path
        score: measured.score,
        worst: measured.worst_class.score,
        "calibration_error": measured.calibration_error,
        "worst_class": measured.worst_class.name,
        **{name: getattr(views, name) for name in VIEWS},
        "judged_on": measured.judged_on,
        "images": measured.images,
        "sigma": told.noise_multiplier,
        "sampling_rate": told.sampling_rate,
        "steps": told.steps,
        "examples": told.examples,
        "class_scores" if several else "class_accuracy": json.dumps(measured.class_scores),
        "tuned": json.dumps(run.tuned),
        "curve": json.dumps([[point.step, point.score] for point in measured.curve]),
        "diverged": measured.diverged,
        "private": told.private,
        "engine": measured.engine,
        "machine": measured.machine,
        "dpmix": told.versions["dpmix"],
        "torch": told.versions["torch"],
        "config": run.name,
        "weights_sha256": told.weights_sha256,
    }  # fmt: skip


def score_of(columns: Iterable[str]) -> str:
    """Which of `SCORES` is among the columns."""
    return next(name for name in SCORES if name in columns)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run: SweepRun
    error: str | None = None
    warnings: tuple[str, ...] = ()


def finish(run: SweepRun, root: Path, threads: int | None, gpu: int | None) -> Outcome:
    """Start or resume a run; nothing happens if it is complete.

    The GPU is not a setting: a run publishes its settings, and the number could tell which of a
    private selection's runs it was (`tests/sweeps/test_selection.py`).
    """
    if threads is not None:
        torch.set_num_threads(threads)
    usable = gpu is not None and torch.cuda.is_available()
    device = torch.cuda.device(gpu) if usable else nullcontext()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            if not (root.is_dir() and is_complete(root)):
                with device:
                    if newest_step(RunFolder(root).checkpoints) is not None:
                        fit(resume=root, device=run.config.run.device)
                    else:
                        settings = run.settings | {"output": os.fspath(root)}
                        train_run(build_run(Config.load(run.base, **settings)))
        except DpmixError as error:
            return Outcome(run, str(error))
        except Exception as error:  # of a library: the other runs should still be made
            return Outcome(run, f"{type(error).__name__}: {one_line(error)}")
    texts = dict.fromkeys(str(one.message) for one in caught if one.category is UserWarning)
    return Outcome(run, warnings=tuple(texts))


Jobs = list[tuple[SweepRun, Path]]
"""Runs and their folders."""

Workers = Callable[[Jobs], Iterator[Outcome]]
"""Makes runs, in any processes and any order, and yields the outcomes as they come."""


def on_this_machine(runs: Jobs, jobs: int | None) -> Iterator[Outcome]:
    """Make `jobs` runs at once, each in its own process with its share of the cores.

    The GPUs are dealt out in turn. The default is a run for each GPU, else for every two cores.
    """
    try:
        from joblib import Parallel, delayed
        from joblib.externals.loky.process_executor import BrokenProcessPool
    except ImportError:
        raise DpmixError(f"a sweep needs joblib; {to_install('sweep')}") from None
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    jobs = jobs or gpus or max(1, cores // 2)
    threads = max(1, cores // jobs) if jobs > 1 else None
    try:
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered", batch_size=1)(
            delayed(finish)(
                run, root, threads,
                index % gpus if gpus > 1 and run.config.run.device == "auto" else None,
            )
            for index, (run, root) in enumerate(runs)
        )  # fmt: skip
    except BrokenProcessPool:
        raise DpmixError(
            "a process of the sweep was killed, perhaps for lack of memory; finished runs are "
            "kept: give the same command again, with fewer --jobs"
        ) from None


def on_cluster(runs: Jobs, cluster: str, logs: Path, options: dict[str, Any]) -> Iterator[Outcome]:
    """Submit each run as a job."""
    try:
        import submitit
    except ImportError:
        raise DpmixError(f"--cluster needs submitit; {to_install('sweep')}") from None
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=cluster)
        executor.update_parameters(**options)
        with executor.batch():
            jobs = [executor.submit(finish, run, root, None, None) for run, root in runs]
    except (NameError, RuntimeError, ValueError, TypeError, OSError) as error:
        raise DpmixError(f"cluster '{cluster}' takes no jobs: {one_line(error)}") from None
    of_job = {job: run for job, (run, _) in zip(jobs, runs, strict=True)}
    for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
        if failure := job.exception():
            why = f"job {job.job_id} died ({one_line(failure)}); see its log in '{logs}'"
            yield Outcome(of_job[job], why)
        else:
            yield job.result()


Results = list[tuple[SweepRun, ResultRow]]


def make_runs(
    runs: tuple[SweepRun, ...], folder: Path, csv: str, workers: Workers,
    report: Callable[[int, int], None],
) -> tuple[Results, list[Outcome]]:  # fmt: skip
    """Make the runs that `folder` lacks, and write the CSV after each.

    Returns:
        The results, in the order of `runs`, and the outcomes of runs that failed or warned.
    """
    import pandas as pd  # in the extra `sweep`

    roots = {run.name: folder / RUNS / run.name for run in runs}
    facts = {name: read_facts(RunFolder(root)) for name, root in roots.items()
             if root.is_dir() and is_complete(root)}  # fmt: skip
    missing = {run.name: run for run in runs if run.name not in facts}
    outcomes: list[Outcome] = []

    def collected() -> Results:
        found = [(run, row_of(run, facts[run.name])) for run in runs if run.name in facts]
        if found:
            frame = pd.DataFrame([row for _, row in found], dtype=object)
            write_text(folder / csv, frame.to_csv(index=False, lineterminator="\n"))
        report(len(facts), len(roots))
        return found

    results = collected()
    for outcome in workers([(run, roots[name]) for name, run in missing.items()]):
        if outcome.error is None:
            name = outcome.run.name
            facts[name] = read_facts(RunFolder(roots[name]))
            results = collected()
        if outcome.error or outcome.warnings:
            outcomes.append(outcome)
    return results, outcomes


def tuned_runs(sweep: Sweep, tried: Results) -> tuple[SweepRun, ...]:
    """The sweep's runs, each with the values of the best mean score over its tries' seeds.

    The tries are judged on held-out training images, so that the test images are used once.
    """
    return tuple(_tuned(run, sweep.tuned, tried) for run in sweep.runs)


def _tuned(run: SweepRun, names: tuple[str, ...], tried: Results) -> SweepRun:
    scores: dict[str, list[ResultRow]] = defaultdict(list)
    for one, row in tried:
        if one.row == run.row and run.place.items() <= one.swept.items():
            scores[to_json({name: one.swept[name] for name in names})].append(row)
    if not scores:
        raise DpmixError(f"row '{run.row}' at {run.place}: all of its tries failed")

    def rank(values: str) -> tuple[bool, float]:
        rows = scores[values]
        diverged = any(row["diverged"] for row in rows)
        return not diverged, statistics.mean(row[score_of(row)] for row in rows)

    best = json.loads(max(scores, key=rank))
    return replace(run, settings=run.settings | best, tuned=best)
