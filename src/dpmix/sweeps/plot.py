"""A sweep's results as pictures: against a setting, and class by class."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dpmix.errors import DpmixError, nearest
from dpmix.sweeps.run import VIEWS, score_of
from dpmix.sweeps.table import label, pd, short, swept

# Colours that differ for all kinds of colour vision (Okabe & Ito); markers and dashes for more.
_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_STYLE: Any = {
    "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "dpmix",
    "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True, "text.parse_math": False,
    "axes.prop_cycle": cycler(linestyle=["-", "--", ":"])
    * cycler(color=_COLOURS, marker=[*"osD^vPX"]),
}  # fmt: skip


def draw_against(frame: pd.DataFrame, path: Path, x: str | None = None) -> None:
    """Draw the score against the setting `x`, a line per row: mean, and one std over seeds.

    Without `x` that is epsilon, or what the sweep varied instead. Against a number of views the
    rows are the points of one line.
    """
    known = swept(frame)
    x = x or (known or ["epsilon"])[0]
    allowed = [*known, "epsilon", *(name for name in VIEWS if name in frame)]
    if x not in allowed:
        raise DpmixError(f"unknown name '{x}': {nearest(x, allowed)}")
    if x in VIEWS:
        if frame.groupby(x)["row"].nunique().max() > 1:
            raise DpmixError(f"{x} does not tell the rows apart; leave out --x for a line per row")
        frame = frame.assign(row="")
    others, score = [name for name in known if name != x], score_of(frame)

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for name, runs in _groups(part, others):
            points = runs.groupby(x)[score]
            mean, std = 100 * points.mean(), 100 * points.std().fillna(0)
            (line,) = axes.plot(mean.index, mean, label=name, markersize=5)
            axes.fill_between(
                mean.index, mean - std, mean + std, color=line.get_color(), alpha=0.15, lw=0
            )
        values = sorted(part[x].unique())
        if x == "epsilon":
            axes.set_xscale("log")
        axes.set(xlabel=x, ylabel=f"{score.replace('_', ' ')} (%)")
        axes.set_xticks(values, [short(value) for value in values], minor=False)
        axes.minorticks_off()

    _save(frame, path, draw)


def draw_classes(frame: pd.DataFrame, path: Path) -> None:
    """Draw the score of every class or label, a bar per row, a panel per epsilon."""
    others = [name for name in swept(frame) if name != "epsilon"]
    column = "class_accuracy" if "class_accuracy" in frame else "class_scores"

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        means, stds = {}, {}
        for name, line in _groups(part, others):
            classes = 100 * pd.DataFrame([json.loads(text) for text in line[column]])
            means[name], stds[name] = classes.mean(), classes.std().fillna(0)
        pd.DataFrame(means).plot.bar(
            ax=axes, yerr=pd.DataFrame(stds), legend=False, width=0.8, color=_COLOURS
        )
        shown = "accuracy" if column == "class_accuracy" else "AUROC"
        axes.set(ylabel=f"{shown} (%)", xlabel="class", ylim=(0, 100))

    _save(frame, path, draw, "epsilon")


def _groups(part: pd.DataFrame, others: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs that are alike but for their seeds, and their name."""
    for _, line in part.groupby(["row", *others], sort=False, dropna=False):
        name = label(line.iloc[0].to_dict(), others)
        # A legend leaves out names that begin with an underscore.
        yield f" {name}" if name.startswith("_") else name, line


def _save(
    frame: pd.DataFrame, path: Path, draw: Callable[[Axes, pd.DataFrame], None], *apart: str
) -> None:
    """One panel for each data set, model and value of the settings `apart`, under one legend."""
    apart = tuple(name for name in apart if frame[name].nunique() > 1)
    parts = [*frame.groupby(["data", "model", *apart], sort=False)]
    columns = min(len(parts), 2)
    lines = math.ceil(len(parts) / columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4 * columns, 4.2 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=bool(apart)).flat
        for axes, ((data, model, *values), part) in zip(panels, parts, strict=False):
            draw(axes, part)
            words = [f"{name} {short(value)}" for name, value in zip(apart, values, strict=True)]
            if (seeds := part["seed"].nunique()) > 1:
                words.append(f"{seeds} seeds, ± standard deviation")
            axes.set_title(", ".join([data, model, *words]), fontsize=10)
        for empty in panels[len(parts) :]:
            empty.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False,
                          fontsize=9)  # fmt: skip
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
        except (OSError, ValueError) as error:
            raise DpmixError(f"cannot write '{path}': {error}; give another --output") from None
