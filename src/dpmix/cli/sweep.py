"""`dpmix sweep`."""

import math
import statistics
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer
import yaml
from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dpmix.cli.progress import counting_bar, stdout
from dpmix.errors import DpmixError, nearest, without_controls
from dpmix.reports.statement import read_statement, shown_epsilon
from dpmix.reports.summary import two_columns
from dpmix.runs.folder import RunFolder
from dpmix.sweeps.cost import choosing_costs
from dpmix.sweeps.grid import SEED, Cell, Settings, Sweep, load_sweep, sweep_path
from dpmix.sweeps.run import (
    BEST,
    FACTS,
    RESULTS,
    RUNS,
    TRIES,
    VIEWS,
    Outcome,
    Row,
    default_jobs,
    making,
    on_cluster,
    on_this_machine,
    run_cells,
    tuned_cells,
)
from dpmix.sweeps.selection import HIDDEN, candidates, select

# What a sweep shows while it runs: how many runs are done, and the accuracy of every row.


class SweepDisplay:
    """The rows so far, as a table that is drawn anew with each of them."""

    def __init__(self, console: Console, live: Live, total: int) -> None:
        self.rows: list[Row] = []
        self._console, self._live, self._total = console, live, total
        self._told: set[str] = set()

    def show(self, rows: list[Row], outcome: Outcome | None) -> None:
        """Draw `rows`; say what the run of `outcome` warned of, once."""
        if rows and outcome is None:
            self._console.print(f"{len(rows)} of {self._total} were there already")
        self.rows = rows
        for warning in outcome.warnings if outcome else ():
            if warning not in self._told:
                self._console.print(f"warning: {without_controls(warning)}")
                self._told.add(warning)
        self._live.update(_table(rows, self._total))


@contextmanager
def live_results(console: Console, total: int) -> Iterator[SweepDisplay]:
    """Show a sweep of `total` runs; silent where the output is no terminal."""
    shown = console if console.is_terminal else Console(quiet=True)
    with Live(console=shown, transient=True) as live:
        display = SweepDisplay(console, live, total)
        try:
            yield display
        except KeyboardInterrupt:
            done = f"{len(display.rows)} of {total} runs are done"
            console.print(f"stopped, {done}; the same command goes on")
            raise


def _table(rows: list[Row], total: int) -> RenderableType:
    done = f"{len(rows)} of {total} runs"
    if not rows:
        return Text(done)
    by_row: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        by_row[row["row"]][row["epsilon"]].append(row["accuracy"])
    epsilons = sorted({row["epsilon"] for row in rows})
    table = Table(
        "", *(f"epsilon {epsilon:g}" for epsilon in epsilons), box=None, pad_edge=False,
        caption=done, caption_justify="left",
    )  # fmt: skip
    for name, cells in by_row.items():
        table.add_row(name, *(_cell(cells[epsilon]) for epsilon in epsilons))
    return table


def _cell(accuracies: list[float]) -> str:
    if not accuracies:
        return ""
    return f"{statistics.mean(accuracies):.1%} ({len(accuracies)})"


# `dpmix table`.


def table(
    results: Annotated[Path, typer.Argument(help="folder of a `dpmix sweep`, or its CSV")],
    *,
    form: Annotated[
        str, typer.Option("--format", help="markdown, latex (needs booktabs) or csv")
    ] = "markdown",
    fact: Annotated[str, typer.Option(help=f"what to show: {', '.join(FACTS)}")] = FACTS[0],
    columns: Annotated[
        str | None, typer.Option(help="the setting for the columns; default: epsilon")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="row that the others are compared with; default: the first")
    ] = None,
) -> None:
    """Print a sweep's results as the paper lays them out: mean and std, with paired tests."""
    from dpmix.sweeps.table import read_results, table_text, tables, warn_of_diverged

    frame = read_results(results)
    if form == "csv":  # which has no caption
        warn_of_diverged(frame)
    made = tables(frame, fact=fact, columns=columns, against=against)
    typer.echo("\n".join(table_text(one, form) for one in made), nl=False)


# `dpmix plot`.


Kind = Literal["against", "classes", "curves"]


def plot(
    results: Annotated[Path, typer.Argument(help="folder of a `dpmix sweep`, or its CSV")],
    *,
    output: Annotated[
        list[Path], typer.Option(help="picture to write: .png, .svg or .pdf; repeatable")
    ],
    kind: Annotated[
        str,
        typer.Option(help="against (a setting), classes (a bar each), curves (over the steps)"),
    ] = "against",
    x: Annotated[
        str | None,
        typer.Option(
            help="the setting on the horizontal axis, such as k_base; or, where rows differ by "
            f"them, {', '.join(VIEWS)}; default: epsilon"
        ),
    ] = None,
    fact: Annotated[str, typer.Option(help=f"what to draw: {', '.join(FACTS)}")] = FACTS[0],
) -> None:
    """Draw a sweep's results: means, with bands or bars of one standard deviation over seeds."""
    from dpmix.sweeps.plot import draw_against, draw_classes, draw_curves
    from dpmix.sweeps.table import read_results, warn_of_diverged

    if kind not in get_args(Kind):
        raise DpmixError(f"unknown kind '{kind}': {nearest(kind, get_args(Kind))}")
    if kind != "against" and (fact != FACTS[0] or x is not None):
        raise DpmixError(
            f"--kind {kind} draws accuracy; leave out --fact and --x, or take --kind against"
        )
    frame = read_results(results)
    warn_of_diverged(frame)
    for path in output:
        if kind == "against":
            draw_against(frame, path, x=x, fact=fact)
        else:
            (draw_classes if kind == "classes" else draw_curves)(frame, path)
        stdout().print(f"wrote {path}")


FAILED = 1


def sweep(
    file: Annotated[str, typer.Argument(help="a sweep: a YAML file, or one that comes along")],
    *,
    scale: Annotated[
        str | None, typer.Option(help="of the sweep's scales, such as cpu; default: in full")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE: a setting of every run, such as data=scans; "
                     "repeatable"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="the sweep's folder; an unfinished one is gone on with; default: a "
                     "folder of the sweep's name under runs/sweeps"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="runs at once; default: one a GPU, else one for two cores"),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="submit each run as a job, by submitit: slurm, or local to try it"),
    ] = None,
    cluster_option: Annotated[
        list[str] | None,
        typer.Option(help="NAME=VALUE for submitit's executor, such as slurm_partition=gpu, "
                     "timeout_min=600; repeatable"),
    ] = None,
    private_selection: Annotated[
        bool,
        typer.Option("--private-selection",
                     help="choose the best run privately: a secret, random number of runs, of "
                     "which the best alone is kept, within ONE epsilon"),
    ] = False,
    expected_runs: Annotated[
        float, typer.Option(help="of --private-selection: how many runs on average")
    ] = 10.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="list the runs; make none")
    ] = False,
) -> None:  # fmt: skip
    """Run every combination of a sweep, in parallel, and collect what came out in one CSV.

    Given again, it goes on where it stopped. `dpmix table` and `dpmix plot` show the results.
    """
    console = stdout()
    path = sweep_path(file)
    plan = load_sweep(path, scale, _named(settings, "--set"))
    # What can't be a selection is refused before anything is made.
    among = candidates(plan, expected_runs) if private_selection else None
    if dry_run:
        console.print(_listed(plan))
        return
    name = path.stem + (f"-{scale}" if scale else "")
    folder = output or Path("runs/sweeps") / name
    if cluster is not None:
        options = _named(cluster_option, "--cluster-option")
        workers: Callable[..., Iterator[Outcome]] = partial(
            on_cluster,
            cluster=cluster,
            logs=(folder if among is None else folder / HIDDEN) / "logs",
            options=options,
        )
    else:
        workers = partial(on_this_machine, jobs=jobs or default_jobs())
    with making(folder):
        if among is None:
            _sweep(plan, folder, workers, console)
        else:
            if (folder / RUNS).is_dir():
                warnings.warn(
                    f"'{folder}' holds runs of a sweep too: what they were trained on has been "
                    "released by them, which the selection's epsilon does not count",
                    stacklevel=1,
                )
            console.print(
                f"{plan.title}: the best of {expected_runs:g} runs on average, drawn from "
                f"{len(among)} candidates, in {folder}"
            )
            _select(among, expected_runs, folder, workers, console)


def _sweep(
    plan: Sweep, folder: Path, workers: Callable[..., Iterator[Outcome]], console: Console
) -> None:
    # They need a library that the rest does not: its lack is told before anything runs.
    from dpmix.sweeps.table import read_results, table_text, tables

    cells = plan.cells
    untried: list[Outcome] = []
    if plan.tries:
        what = f"tuning of {', '.join(plan.tuned)} on images held out"
        tried, untried = _run(what, plan.tries, folder, TRIES, workers, console)
        cells = tuned_cells(plan, tried)
        console.print(_chosen(cells))
    rows, failed = _run(plan.title, cells, folder, RESULTS, workers, console)
    if rows:
        frame = read_results(folder)
        for table in tables(frame, fact=FACTS[0], columns=None, against=None):
            console.print(table_text(table, "markdown"), soft_wrap=True)
        if plan.tries:
            console.print(
                "NOT PRIVATE: the tries' accuracies were looked at without noise, on images that "
                "these runs then trained on. No epsilon covers what was chosen by them"
            )
        _print_costs(folder / RUNS, console)
        console.print(f"results: {folder / RESULTS}", soft_wrap=True)
    if failed or untried:
        raise typer.Exit(FAILED)


def _run(
    what: str,
    cells: tuple[Cell, ...],
    folder: Path,
    results: str,
    workers: Callable[..., Iterator[Outcome]],
    console: Console,
) -> tuple[list[Row], list[Outcome]]:
    """Make `cells`; return their results, and those that failed."""
    console.print(f"{what}: {len({cell.name for cell in cells})} runs in {folder}")
    with live_results(console, len(cells)) as display:
        failed = run_cells(cells, folder, results, workers, display.show)
    for outcome in failed:
        console.print(f"failed: {outcome.cell.row} {outcome.cell.swept}: {outcome.error}")
    return display.rows, failed


def _select(
    among: tuple[Cell, ...],
    expected_runs: float,
    folder: Path,
    workers: Callable[..., Iterator[Outcome]],
    console: Console,
) -> None:
    with counting_bar(console, "private selection", "runs") as report:
        best = select(among, expected_runs, folder, workers, report)
    statement = read_statement(RunFolder(best).privacy)
    console.print(two_columns([
        ("guarantee", statement.guarantee),
        ("best run", str(best)),
        ("keep secret", "how many runs there were and how long it took"),
    ]))  # fmt: skip


def _listed(plan: Sweep) -> Table:
    """The runs, each with the settings that not all share."""
    count = f"{len(plan.tries)} tries, then {len(plan.cells)}" if plan.tries else len(plan.cells)
    first, *others = (cell.settings for cell in (*plan.tries, *plan.cells))
    shared = {name: value for name, value in first.items()
              if all(name in one and one[name] == value for one in others)}  # fmt: skip
    title = f"{plan.title}: {count} runs" + (f"\nall with {_said(shared)}" if shared else "")
    table = Table("row", "settings", "run", title=title, title_justify="left", box=None,
                  pad_edge=False)  # fmt: skip

    def own(settings: Settings) -> str:
        return _said({name: value for name, value in settings.items() if name not in shared})

    for cell in plan.tries:
        table.add_row(cell.row, own(cell.settings), cell.name)
    for cell in plan.cells:
        # What a run is called depends on what is chosen for it.
        chosen = dict.fromkeys(plan.tuned, "as its tries say")
        table.add_row(cell.row, own(cell.settings | chosen), "" if chosen else cell.name)
    return table


def _chosen(cells: tuple[Cell, ...]) -> Table:
    """What the tries have chosen, once for all seeds."""
    table = Table("row", "at", "chosen by its tries", box=None, pad_edge=False)
    for row, at, best in dict.fromkeys(
        (cell.row, _said({n: v for n, v in cell.swept.items() if n != SEED}), _said(cell.tuned))
        for cell in cells
    ):
        table.add_row(row, at, best)
    return table


def _said(settings: Settings) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _print_costs(runs: Path, console: Console) -> None:
    """What it costs to choose among the runs, or to look at them all."""
    best = runs.parent / BEST
    if best.is_dir():
        console.print(
            f"'{best}' was published by a private selection, whose epsilon adds to that of these",
            soft_wrap=True,
        )
    costs = [cost for cost in choosing_costs(runs) if cost.runs > 1]
    if not costs:
        return
    table = Table(
        "epsilon of a run", "runs made", "all looked at", "the best alone (--private-selection)",
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
            "all looked at: what you have spent by this table. The best alone: had the others been "
            "kept secret; a sweep with --private-selection adds the noise that brings that down to "
            "the epsilon of a run"
        )
    if (copies := max(cost.copies for cost in costs)) > 1:
        console.print(
            f"both hold for a person whose image occurs once. One image occurs {copies} times, and "
            "choosing costs the person in it more: dpmix compare of the runs says how much"
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
