"""A sweep's results as the paper lays them out: rows are methods, columns epsilon, mean and std.

Comparisons are paired: two rows are compared seed by seed with a t-test, and the p-values of a
table are adjusted for their number (Benjamini & Hochberg), since of twenty comparisons one is below
0.05 by chance.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path

from scipy.stats import false_discovery_control, ttest_rel

from dpmix.errors import DpmixError, nearest, one_line, to_install
from dpmix.sweeps.run import FACTS, RESULTS, VIEWS, score_of

try:
    import pandas as pd
except ImportError:
    raise DpmixError(f"sweeps, tables and plots need pandas; {to_install('sweep')}") from None

__all__ = ["label", "markdown", "pd", "read_results", "short", "swept", "tables"]

_SIGNIFICANT = 0.05
# A grid may vary these, and every CSV has a column of them.
_ALSO_SWEPT = ("method", "steps", "sampling_rate", *VIEWS)


def read_results(source: Path) -> pd.DataFrame:
    """The rows of a sweep's folder, or of its CSV.

    Warns of runs that diverged.
    """
    path = source / RESULTS if source.is_dir() else source
    try:
        frame = pd.read_csv(path)
        frame[["row", "data", "model", "epsilon", "seed", score_of(frame), "calibration_error"]]
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise DpmixError(
            f"'{path}' holds no results of a sweep ({one_line(error)}); give the folder of a "
            "`dpmix sweep`, or its CSV"
        ) from None
    if count := int(frame.get("diverged", pd.Series([0])).sum()):
        warnings.warn(
            f"{count} run(s) DIVERGED, so their score means nothing: lower their learning rate, "
            "or leave them out",
            stacklevel=2,
        )
    return frame


def swept(frame: pd.DataFrame) -> list[str]:
    """The settings that the grid varied: epsilon, and the columns between identity and facts.

    And those of `_ALSO_SWEPT` in which runs differ that are otherwise alike but for their seeds.
    """
    names = list(frame.columns)
    grid = ["epsilon", *names[names.index("seed") + 1 : names.index(score_of(frame))]]
    varying = [name for name in grid if frame[name].nunique(dropna=False) > 1]
    for name in _ALSO_SWEPT:
        if name in frame and name not in varying:
            alike = frame.groupby(["row", "data", "model", *varying], dropna=False)
            if alike[name].nunique(dropna=False).max() > 1:
                varying.append(name)
    return varying


def label(row: Mapping[str, object], others: list[str]) -> str:
    """The name of a run in a table: its row, and its values of the settings `others`."""
    words = [f"{name} {short(row[name])}" for name in others]
    return ", ".join(filter(None, (str(row["row"]), ", ".join(words))))


def short(value: object) -> str:
    """A setting's value as text."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def tables(
    frame: pd.DataFrame, *, fact: str | None = None, against: str | None = None
) -> list[pd.DataFrame]:
    """One table for each data set and model, with a line for each row and epsilon.

    `std` is over n - 1, `difference` that of the means over the seeds that a row shares with the
    row `against` (the first by default), and `p` its adjusted p-value.
    """
    there = [name for name in FACTS if name in frame]
    fact = fact or score_of(there)
    if fact not in there:
        raise DpmixError(f"unknown fact '{fact}': {nearest(fact, there)}")
    others = [name for name in swept(frame) if name != "epsilon"]
    named = frame.assign(label=[label(row, others) for row in frame.to_dict("records")])
    return [
        _table(part, f"{data}, {model}", fact, against)
        for (data, model), part in named.groupby(["data", "model"], sort=False)
    ]


def _table(part: pd.DataFrame, title: str, fact: str, against: str | None) -> pd.DataFrame:
    labels = list(dict.fromkeys(part["label"]))
    against = labels[0] if against is None else against
    if against not in labels:
        raise DpmixError(f"unknown row '{against}': {nearest(against, labels)}")
    by_seed = {key: cell.set_index("seed")[fact]
               for key, cell in part.groupby(["label", "epsilon"])}  # fmt: skip
    entries = [
        (title, *key, ours.mean(), ours.std(), len(ours),
         *_compared(ours, by_seed.get((against, key[1]))))
        for key, ours in sorted(by_seed.items(), key=lambda one: labels.index(one[0][0]))
    ]  # fmt: skip
    names = ["title", "row", "epsilon", "mean", "std", "runs", "difference", "p"]
    table = pd.DataFrame(entries, columns=names)
    if (tested := table["p"].notna()).any():
        table.loc[tested, "p"] = false_discovery_control(table.loc[tested, "p"])
    table.attrs = {"fact": fact, "against": against}
    return table


def _compared(ours: "pd.Series[float]", theirs: "pd.Series[float] | None") -> tuple[float, float]:
    """Mean difference over the seeds that both have, and its p-value."""
    if theirs is None:
        return float("nan"), float("nan")
    both = ours.index.dropna().intersection(theirs.index.dropna())
    gaps = ours.loc[both] - theirs.loc[both]
    # Gaps that are equal but for rounding do not show how far a seed moves them.
    if len(both) < 2 or gaps.std() <= 1e-9:
        return float(gaps.mean()), float("nan")
    return float(gaps.mean()), float(ttest_rel(ours.loc[both], theirs.loc[both]).pvalue)


def markdown(table: pd.DataFrame) -> str:
    """One of `tables` in Markdown, in percent."""
    texts = [
        f"{100 * one.mean:.2f}"
        + (f" ± {100 * one.std:.2f}" if one.runs > 1 else "")
        + (" *" if one.p < _SIGNIFICANT else "")
        for one in table[["mean", "std", "runs", "p"]].itertuples(index=False)
    ]
    grid = table.assign(text=texts).pivot(index="row", columns="epsilon", values="text").fillna("")
    rows = [f"| {name.replace('|', '/')} | {' | '.join(grid.loc[name])} |"
            for name in dict.fromkeys(table["row"])]  # fmt: skip
    few, many = table["runs"].min(), table["runs"].max()
    seeds = "one seed"
    if many > 1:
        seeds = f"mean ± standard deviation of {few if few == many else f'{few} to {many}'} seeds"
        if len(rows) > 1:
            seeds += (f"; * differs from '{table.attrs['against']}' (paired t-test over seeds, "
                      f"Benjamini-Hochberg p < {_SIGNIFICANT})")  # fmt: skip
    heads = " | ".join(f"epsilon {short(value)}" for value in grid.columns)
    return "\n".join([
        f"**{table['title'][0]}**: {table.attrs['fact'].replace('_', ' ')} in %, {seeds}", "",
        f"| | {heads} |", "|---|" + "---|" * len(grid.columns), *rows, "",
    ])  # fmt: skip
