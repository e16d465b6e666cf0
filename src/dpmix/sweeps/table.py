"""A table of results as text: Markdown, LaTeX or CSV."""

import csv
import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from scipy.stats import false_discovery_control, ttest_rel

from dpmix.errors import DpmixError, nearest, to_install
from dpmix.sweeps.run import FACTS, VIEWS, results_path

# A sweep's results as the paper lays them out: rows are methods, columns epsilon, mean and std.
#
# Comparisons are paired: two rows are compared seed by seed, by a t-test, and the p-values of a
# table are adjusted for their number (Benjamini & Hochberg), since of twenty comparisons one is
# below 0.05 by chance.


try:
    import pandas as pd
except ImportError:
    raise DpmixError(f"tables and plots need pandas; {to_install('sweep')}") from None


# Beside what the sweep varies: who ran, and what it came to.
_GIVEN = ("data", "model")


_FIRST_FACT = FACTS[0]


# What a grid may vary that has a column of its own in every CSV.
_ALSO_SWEPT = ("method", "steps", "sampling_rate", *VIEWS)


@dataclass(frozen=True)
class Entry:
    """One cell of a table.

    Attributes:
        mean: over seeds.
        std: over seeds (n - 1); not a number for one seed.
        runs: how many.
        difference: of the means to the row that is compared with, if there is one.
        p: adjusted p-value of that difference; not a number where it has none.
    """

    mean: float
    std: float
    runs: int
    difference: float
    p: float


@dataclass(frozen=True)
class ResultTable:
    """The results on one data set with one model.

    Attributes:
        title: names both.
        fact: what is shown.
        columns_name: the setting that varies over the columns.
        columns: its values.
        rows: name of each row -> its entries by column; None where nothing was run.
        against: the row that the others are compared with.
        diverged: how many of the runs diverged, so that their accuracy means nothing.
    """

    title: str
    fact: str
    columns_name: str
    columns: list[object]
    rows: dict[str, list[Entry | None]]
    against: str
    diverged: int = 0


def read_results(source: Path) -> pd.DataFrame:
    """The rows of a sweep's folder, or of its CSV.

    Raises:
        DpmixError: there are none, or the file is not a sweep's.
    """
    path = results_path(source)
    try:
        frame = pd.read_csv(path)
        missing = {"row", "data", "model", "epsilon", "seed", *FACTS} - {*frame.columns}
        if missing:
            raise ValueError(f"no column {sorted(missing)[0]}")
    except ValueError as error:
        why = "it is no CSV" if isinstance(error, pd.errors.ParserError) else error
        raise DpmixError(
            f"'{path}' holds no results of a sweep ({why}); give the folder of a `dpmix sweep`"
        ) from None
    return frame


def number_diverged(frame: pd.DataFrame) -> int:
    """How many of the runs diverged, so that their accuracy means nothing."""
    # A CSV of an earlier version has no such column.
    return int(frame["diverged"].sum()) if "diverged" in frame else 0


def warn_of_diverged(frame: pd.DataFrame) -> None:
    """Warn of runs that diverged, where what is shown does not name them."""
    if count := number_diverged(frame):
        warnings.warn(
            f"{count} run(s) DIVERGED, so that their accuracy means nothing: lower their "
            "learning rate, or leave them out",
            stacklevel=2,
        )


def swept(frame: pd.DataFrame) -> list[str]:
    """The settings that the grid varied: epsilon, and the columns between identity and facts.

    And those of `_ALSO_SWEPT` in which runs differ that are else alike but for their seeds.
    """
    names = list(frame.columns)
    grid = names[names.index("seed") + 1 : names.index(_FIRST_FACT)]
    varying = ["epsilon"] if frame["epsilon"].nunique() > 1 else []
    varying += [name for name in grid if frame[name].nunique(dropna=False) > 1]
    for name in _ALSO_SWEPT:
        if name in varying or name not in frame:
            continue
        alike = frame.groupby(["row", *_GIVEN, *varying], dropna=False)
        if alike[name].nunique(dropna=False).max() > 1:
            varying.append(name)
    return varying


def tables(
    frame: pd.DataFrame, *, fact: str, columns: str | None, against: str | None
) -> list[ResultTable]:
    """One table for each data set and model.

    Args:
        frame: of `read_results`.
        fact: of `FACTS`.
        columns: the setting for the columns; None: epsilon.
        against: the row to compare with; None: the first.

    Raises:
        DpmixError: an unknown fact, column or row.
    """
    known = ["epsilon", *swept(frame), "method"]
    columns = columns or "epsilon"
    for given, names, what in ((fact, FACTS, "fact"), (columns, known, "column")):
        if given not in names:
            raise DpmixError(f"unknown {what} '{given}': {nearest(given, names)}")
    others = [name for name in swept(frame) if name != columns]
    named = frame.assign(label=[label(row, others) for row in frame.to_dict("records")])
    return [
        _table(part, f"{data}, {model}", fact, columns, against)
        for (data, model), part in named.groupby([*_GIVEN], sort=False)
    ]


def label(row: Mapping[str, object], others: list[str]) -> str:
    """What a run is called: its row, and its values of the settings `others`."""
    said = ", ".join(f"{name} {short(row[name])}" for name in others)
    return ", ".join(filter(None, (str(row["row"]), said)))


def short(value: object) -> str:
    """A setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(
    part: pd.DataFrame, title: str, fact: str, columns: str, against: str | None
) -> ResultTable:
    labels = list(dict.fromkeys(part["label"]))
    chosen = labels[0] if against is None else against
    if chosen not in labels:
        raise DpmixError(f"unknown row '{chosen}': {nearest(chosen, labels)}")
    values = sorted(part[columns].unique())
    by_seed = {key: cell.set_index("seed")[fact] for key, cell in part.groupby(["label", columns])}
    raw = {key: _compared(cell, by_seed.get((chosen, key[1]))) for key, cell in by_seed.items()}
    adjusted = _adjusted({key: p for key, (_, p) in raw.items() if key[0] != chosen})
    rows = {
        label: [
            _entry(by_seed[key], raw[key][0], adjusted.get(key, float("nan")))
            if (key := (label, value)) in by_seed
            else None
            for value in values
        ]
        for label in labels
    }
    return ResultTable(title, fact, columns, values, rows, chosen, number_diverged(part))


def _compared(ours: "pd.Series[float]", theirs: "pd.Series[float] | None") -> tuple[float, float]:
    """Mean difference over the seeds that both have, and its p-value."""
    if theirs is None:
        return float("nan"), float("nan")
    both = ours.index.dropna().intersection(theirs.index.dropna())
    gaps = ours.loc[both] - theirs.loc[both]
    # Gaps that are equal but for rounding say nothing of how far a seed moves them.
    if len(both) < 2 or gaps.std() <= 1e-9:
        return float(gaps.mean()), float("nan")
    return float(gaps.mean()), float(ttest_rel(ours.loc[both], theirs.loc[both]).pvalue)


def _adjusted(p_values: dict[tuple[str, object], float]) -> dict[tuple[str, object], float]:
    real = {key: p for key, p in p_values.items() if p == p}
    if not real:
        return {}
    return dict(zip(real, map(float, false_discovery_control([*real.values()])), strict=True))


def _entry(cell: "pd.Series[float]", difference: float, p: float) -> Entry:
    return Entry(float(cell.mean()), float(cell.std()), len(cell), difference, p)


Format = Literal["markdown", "latex", "csv"]


SIGNIFICANT = 0.05


_LATEX = {c: f"\\{c}" for c in "_%&#${}"} | {
    "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"
}  # fmt: skip


_SPECIAL = str.maketrans(_LATEX)


def table_text(table: ResultTable, form: str) -> str:
    """Render one table.

    Raises:
        DpmixError: an unknown format.
    """
    if form not in get_args(Format):
        raise DpmixError(f"unknown format '{form}': {nearest(form, get_args(Format))}")
    if form == "markdown":
        return _markdown(table)
    return _latex(table) if form == "latex" else _csv(table)


def _markdown(table: ResultTable) -> str:
    heads = [f"{table.columns_name} {short(value)}" for value in table.columns]
    lines = [
        f"**{table.title}**: {_caption(table)}",
        "",
        f"| | {' | '.join(heads)} |",
        "|---|" + "---|" * len(heads),
        *(f"| {name.replace('|', '/')} | {' | '.join(map(_cell, entries))} |"
          for name, entries in table.rows.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _latex(table: ResultTable) -> str:
    heads = [f"${_head(table.columns_name)} = {short(value)}$" for value in table.columns]
    body = [
        " & ".join([name.translate(_SPECIAL), *(_cell(entry, latex=True) for entry in entries)])
        for name, entries in table.rows.items()
    ]
    return "\n".join(
        [
            f"% {table.title}: {_caption(table)}",
            f"\\begin{{tabular}}{{l{'r' * len(heads)}}}",
            "\\toprule",
            " & ".join(["", *heads]) + " \\\\",
            "\\midrule",
            *(f"{line} \\\\" for line in body),
            "\\bottomrule",
            "\\end{tabular}",
            "",
        ]
    )


def _csv(table: ResultTable) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["title", "row", table.columns_name, "mean", "std", "runs", "difference", "p"])
    for name, entries in table.rows.items():
        for value, entry in zip(table.columns, entries, strict=True):
            if entry is not None:
                writer.writerow([table.title, name, value, entry.mean, entry.std, entry.runs,
                                 entry.difference, entry.p])  # fmt: skip
    return text.getvalue()


def _caption(table: ResultTable) -> str:
    runs = {entry.runs for entries in table.rows.values() for entry in entries if entry}
    said = f"{table.fact.replace('_', ' ')} in %, "
    if table.diverged:
        said = f"{table.diverged} run(s) DIVERGED, lower their learning rate; {said}"
    if max(runs) == 1:
        return said + "one seed"
    many = f"{min(runs)}" if len(runs) == 1 else f"{min(runs)} to {max(runs)}"
    said += f"mean ± standard deviation of {many} seeds"
    if len(table.rows) > 1:
        said += (
            f"; * differs from '{table.against}' (paired t-test over seeds, Benjamini-Hochberg "
            f"p < {SIGNIFICANT})"
        )
    return said


def _cell(entry: Entry | None, latex: bool = False) -> str:
    if entry is None:
        return "--" if latex else ""
    star = ("^{*}" if latex else " *") if entry.p < SIGNIFICANT else ""
    if entry.runs == 1:
        said = f"{100 * entry.mean:.2f}"
    else:
        said = f"{100 * entry.mean:.2f} {chr(92) + 'pm' if latex else '±'} {100 * entry.std:.2f}"
    return f"${said}{star}$" if latex else said + star


def _head(name: str) -> str:
    return "\\varepsilon" if name == "epsilon" else f"\\mathrm{{{name.translate(_SPECIAL)}}}"
