"""`dpmix sweep`, `dpmix table` and `dpmix plot`."""

import math
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.table import Table

from dpmix.cli.console import stdout
from dpmix.cli.progress import counting_bar
from dpmix.errors import DpmixError, without_controls
from dpmix.files import lock
from dpmix.reports.statement import read_statement, shown_epsilon
from dpmix.reports.summary import two_columns
from dpmix.runs.folder import RunFolder
from dpmix.sweeps.cost import choosing_costs
from dpmix.sweeps.grid import Settings, Sweep, SweepRun, load_sweep, sweep_path
from dpmix.sweeps.run import (
    BEST,
    FACTS,
    RESULTS,
    RUNS,
    TRIES,
    VIEWS,
    Results,
    Workers,
    make_runs,
    on_cluster,
    on_this_machine,
    tuned_runs,
)
from dpmix.sweeps.selection import HIDDEN, candidates, select


def table(
    results: Annotated[Path, typer.Argument(help="folder of a `dpmix sweep`, or its CSV")],
    *,
    fact: Annotated[
        str | None, typer.Option(help=f"what to show: {', '.join(FACTS)}; default: the score")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="row to compare the others with; default: the first")
    ] = None,
) -> None:
    """Print a sweep's results as the paper lays them out: mean and std, with paired tests."""
    from dpmix.sweeps.table import markdown, read_results, tables

    made = tables(read_results(results), fact=fact, against=against)
    typer.echo("\n".join(map(markdown, made)), nl=False)


def plot(
    results: Annotated[Path, typer.Argument(help="folder of a `dpmix sweep`, or its CSV")],
    *,
    output: Annotated[Path, typer.Option(help="picture to write: .png, .svg or .pdf")],
    kind: Annotated[str, typer.Option(help="against (a setting), or classes (bars)")] = "against",
    x: Annotated[
        str | None, typer.Option(help=f"k_base, or {', '.join(VIEWS)}...; default: epsilon")
    ] = None,
) -> None:
    """Draw a sweep's results: means, with bands or bars of one standard deviation over seeds."""
    from dpmix.sweeps.plot import draw_against, draw_classes
    from dpmix.sweeps.table import read_results

    if kind not in ("against", "classes"):
        raise DpmixError(f"unknown kind '{kind}'; expected against or classes")
    if kind == "classes" and x is not None:
        raise DpmixError("--kind classes has its own horizontal axis; leave out --x")
    frame = read_results(results)
    if kind == "classes":
        draw_classes(frame, output)
    else:
        draw_against(frame, output, x)
    stdout().print(f"wrote {output}")


def sweep(
    file: Annotated[str, typer.Argument(help="YAML file of a sweep, or a built-in name")],
    *,
    scale: Annotated[
        str | None, typer.Option(help="one of the sweep's scales, such as cpu; default: in full")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE, of every run; repeatable")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="output folder; default: by the name, in runs/sweeps")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs at once; default: by GPUs, else by cores")
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(help="submit each run as a job: slurm, or local to try it")
    ] = None,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for submitit, such as timeout_min=600; repeatable"),
    ] = None,
    private_selection: Annotated[
        bool,
        typer.Option("--private-selection", help="keep only the best of a secret, random number "
                     "of runs, within ONE epsilon"),
    ] = False,
    expected_runs: Annotated[
        float, typer.Option(help="runs of --private-selection on average")
    ] = 10.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list the runs; make none")] = False,
) -> None:  # fmt: skip
    """Run every combination of a sweep, in parallel, and collect the results in one CSV.

    The same command resumes a sweep that was stopped. `dpmix table` and `dpmix plot` show the
    results.
    """
    console, path = stdout(), sweep_path(file)
    plan = load_sweep(path, scale, _named(settings, "--set"))
    among = candidates(plan, expected_runs) if private_selection else None
    if dry_run:
        console.print(_listed(plan))
        return
    folder = output or Path("runs/sweeps") / (path.stem + (f"-{scale}" if scale else ""))
    workers: Workers = partial(on_this_machine, jobs=jobs)
    if cluster is not None:
        logs = (folder / HIDDEN if among else folder) / "logs"
        options = _named(cluster_option, "--cluster-option")
        workers = partial(on_cluster, cluster=cluster, logs=logs, options=options)
    held = lock(folder / ".lock", f"sweep folder '{folder}'")
    try:
        if among is None:
            _sweep(plan, folder, workers, console)
        else:
            _select(plan, among, expected_runs, folder, workers, console)
    finally:
        held.release()


def _sweep(plan: Sweep, folder: Path, workers: Workers, console: Console) -> None:
    # This needs an optional library: its lack is reported before anything runs.
    from dpmix.sweeps.table import markdown, read_results, tables

    runs, untried = plan.runs, False
    if plan.tries:
        title = f"tuning of {', '.join(plan.tuned)} on held-out images"
        tried, untried = _make(title, plan.tries, folder, TRIES, workers, console)
        runs = tuned_runs(plan, tried)
        chosen = Table("row", "at", "chosen by its tries", box=None, pad_edge=False)
        for row in dict.fromkeys((run.row, _words(run.place), _words(run.tuned)) for run in runs):
            chosen.add_row(*row)
        console.print(chosen)
    results, failed = _make(plan.title, runs, folder, RESULTS, workers, console)
    if results:
        for made in tables(read_results(folder)):
            console.print(markdown(made), soft_wrap=True)
        if plan.tries:
            console.print(
                "NOT PRIVATE: the accuracies of the tries were looked at without noise, on images "
                "that these runs then trained on. No epsilon covers what was chosen by them"
            )
        _print_costs(folder / RUNS, console)
        console.print(f"results: {folder / RESULTS}", soft_wrap=True)
    if failed or untried:
        raise typer.Exit(1)


def _make(
    title: str, runs: tuple[SweepRun, ...], folder: Path, csv: str, workers: Workers,
    console: Console,
) -> tuple[Results, bool]:  # fmt: skip
    """Make runs; return the results, and whether any run failed."""
    console.print(f"{title}: {len({run.name for run in runs})} runs in {folder}")
    with counting_bar(console, "sweep", "runs") as report:
        try:
            results, outcomes = make_runs(runs, folder, csv, workers, report)
        except KeyboardInterrupt:
            console.print("stopped; the same command resumes it")
            raise
    for text in dict.fromkeys(text for outcome in outcomes for text in outcome.warnings):
        console.print(f"warning: {without_controls(text)}")
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        console.print(f"failed: {outcome.run.row} {outcome.run.swept}: {outcome.error}")
    return results, bool(failed)


def _select(
    plan: Sweep, among: tuple[SweepRun, ...], expected_runs: float, folder: Path, workers: Workers,
    console: Console,
) -> None:  # fmt: skip
    if (folder / RUNS).is_dir():
        warnings.warn(
            f"'{folder}' holds runs of a sweep too: they released what they were trained on, which "
            "the selection's epsilon does not count",
            stacklevel=1,
        )
    console.print(f"{plan.title}: the best of {expected_runs:g} runs on average, drawn from "
                  f"{len(among)} candidates, in {folder}")  # fmt: skip
    with counting_bar(console, "private selection", "runs") as report:
        best = select(among, expected_runs, folder, workers, report)
    console.print(two_columns([
        ("guarantee", read_statement(RunFolder(best).privacy).guarantee),
        ("best run", str(best)),
        ("keep secret", "how many runs there were and how long it took"),
    ]))  # fmt: skip


def _listed(plan: Sweep) -> Table:
    """The runs, each with the settings that not all share."""
    count = f"{len(plan.tries)} tries, then {len(plan.runs)}" if plan.tries else len(plan.runs)
    first, *others = (run.settings for run in (*plan.tries, *plan.runs))
    shared = {name: value for name, value in first.items()
              if all(name in one and one[name] == value for one in others)}  # fmt: skip
    title = f"{plan.title}: {count} runs" + (f"\nall with {_words(shared)}" if shared else "")
    table = Table("row", "settings", title=title, title_justify="left", box=None, pad_edge=False)
    unknown = dict.fromkeys(plan.tuned, "as its tries choose")
    for run in (*plan.tries, *plan.runs):
        own = {name: value for name, value in run.settings.items() if name not in shared}
        table.add_row(run.row, _words(own if run in plan.tries else own | unknown))
    return table


def _words(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _print_costs(runs: Path, console: Console) -> None:
    """What it costs to choose among the runs, or to look at them all."""
    if (best := runs.parent / BEST).is_dir():
        console.print(f"'{best}' was published by a private selection, whose epsilon adds to that "
                      "of these", soft_wrap=True)  # fmt: skip
    costs = [cost for cost in choosing_costs(runs) if cost.runs > 1]
    if not costs:
        return
    table = Table(
        "epsilon of a run", "runs made", "all looked at", "only the best (--private-selection)",
        title=f"epsilon of choosing the best run, at delta {costs[-1].delta:g}",
        title_justify="left", box=None, pad_edge=False,
    )  # fmt: skip
    for cost in costs:
        one = "every" if cost.epsilon is None else f"{cost.epsilon:g}"
        selected = "" if cost.by_selection is None else shown_epsilon(cost.by_selection)
        table.add_row(one, str(cost.runs), shown_epsilon(cost.all_of_them), selected)
    console.print(table)
    if math.isinf(costs[-1].all_of_them):
        console.print("NOT PRIVATE: runs without privacy are among them; no epsilon covers these")
    if any(cost.by_selection for cost in costs):
        console.print(
            "all looked at: what you have spent by this table. Only the best: if the others had "
            "been kept secret, with the noise of --private-selection"
        )
    if (copies := max(cost.copies for cost in costs)) > 1:
        console.print(
            f"both hold for a person whose image occurs once. One image occurs {copies} times, and "
            "choosing costs the person in it more: see dpmix compare"
        )
    if any(cost.seeded for cost in costs):
        console.print(
            "both hold for runs without a seed. These are SEEDED, for research: runs of one seed "
            "share their noise, and no epsilon covers them together"
        )


def _named(given: list[str] | None, flag: str) -> dict[str, Any]:
    """NAME=VALUE, each value as YAML reads it."""
    values = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise DpmixError(f"{flag} '{text}' is not NAME=VALUE, such as {flag} steps=50")
        values[name] = yaml.safe_load(value)
    return values
