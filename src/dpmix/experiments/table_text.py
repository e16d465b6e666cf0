"""A table of results as text: Markdown, LaTeX or CSV."""

import csv
import io
from typing import Literal, get_args

from dpmix.errors import DpmixError, nearest
from dpmix.experiments.tables import Entry, ResultTable, short

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
