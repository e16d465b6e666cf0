"""A sweep's results as pictures: against a setting, class by class, and over the steps."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dpmix.errors import DpmixError, nearest
from dpmix.sweeps.run import FACTS, VIEWS
from dpmix.sweeps.table import label, pd, short, swept

FORMATS = (".png", ".svg", ".pdf")
_WIDTH, _HEIGHT = 6.4, 4.2
_ON_A_LOG_AXIS = ("epsilon", "mixup_alpha")
# Colours that differ for all kinds of colour vision (Okabe & Ito); dashes and hatches for more.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS, _DASHES, _HATCHES = "osD^vPX", ("-", "--", ":"), ("", "//", "..")
_STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "dpmix",
               "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True,
               "text.parse_math": False}  # fmt: skip
_MANY_CLASSES, _LEAST_RANGE = 20, 2.0


def draw_against(
    frame: pd.DataFrame, path: Path, *, x: str | None = None, fact: str = FACTS[0]
) -> None:
    """Draw `fact` against the setting `x`, a line per row: mean, and a band of one std over seeds.

    Against a number of views the rows are the points of one line.

    Args:
        frame: of `read_results`.
        path: of the picture, in one of `FORMATS`.
        x: a setting that the sweep varied, or one of `VIEWS`; None for epsilon, or what it varied
            instead.
        fact: one of `FACTS`.

    Raises:
        DpmixError: an unknown setting, fact or format, or rows with the same number of views.
    """
    known = swept(frame)
    x = x or (known or ["epsilon"])[0]
    of_views = [name for name in VIEWS if name in frame]
    for given, names in ((x, [*known, "epsilon", *of_views]), (fact, FACTS)):
        if given not in names:
            raise DpmixError(f"unknown name '{given}': {nearest(given, names)}")
    if x in VIEWS:
        for value, same in frame.groupby(x)["row"]:
            if same.nunique() > 1:
                first, second, *_ = same.unique()
                raise DpmixError(
                    f"{x} does not tell the rows apart: '{first}' and '{second}' have {value}; "
                    "leave out --x for a line per row"
                )
        frame = frame.assign(row="")
    others = [name for name in known if name != x]

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for index, (name, line) in enumerate(_groups(part, others)):
            _draw_line(axes, index, name, line.groupby(x)[fact])
        axes.set(xlabel=x, ylabel=_of_axis(fact, part))
        # At least two points of accuracy: smaller differences are mostly noise.
        low, high = axes.get_ylim()
        margin = max(0.0, _LEAST_RANGE - (high - low)) / 2
        axes.set_ylim(low - margin, high + margin)
        values = sorted(part[x].unique())
        if x in _ON_A_LOG_AXIS and values[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(values, [short(value) for value in values], minor=False)
        axes.minorticks_off()

    _save(frame, path, draw)


def draw_classes(frame: pd.DataFrame, path: Path) -> None:
    """Draw the accuracy of every class, a bar per row, a panel per epsilon: mean and std over runs.

    Raises:
        DpmixError: too many classes to tell apart, or an unknown format.
    """
    others = [name for name in swept(frame) if name != "epsilon"]

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        lines = [*_groups(part, others)]
        width = 0.8 / len(lines)
        for index, (name, line) in enumerate(lines):
            classes = 100 * pd.DataFrame([json.loads(text) for text in line["class_accuracy"]])
            if len(classes.columns) > _MANY_CLASSES:
                raise DpmixError(
                    f"{len(classes.columns)} classes are too many bars; expected at most "
                    f"{_MANY_CLASSES}: see worst_class_accuracy, or the runs' reports"
                )
            places = [place + (index + 0.5) * width - 0.4 for place in range(len(classes.columns))]
            axes.bar(places, classes.mean(), width, yerr=classes.std().fillna(0), label=name,
                     color=_of(_COLOURS, index), hatch=_of(_HATCHES, index // len(_COLOURS)),
                     error_kw={"lw": 0.8})  # fmt: skip
            axes.set_xticks(range(len(classes.columns)), classes.columns)
        turned = max(map(len, classes.columns)) > 3
        axes.tick_params(axis="x", rotation=45 if turned else 0)
        axes.set(ylabel=_of_axis("accuracy", part), xlabel="class", ylim=(0, 100))

    _save(frame, path, draw, "epsilon")


def draw_curves(frame: pd.DataFrame, path: Path) -> None:
    """Draw accuracy over the steps, a line per row, a panel per epsilon: mean and std over seeds.

    Raises:
        DpmixError: an unknown format.
    """
    others = [name for name in swept(frame) if name != "epsilon"]

    def draw(axes: Axes, part: pd.DataFrame) -> None:
        for index, (name, line) in enumerate(_groups(part, others)):
            points = pd.DataFrame([point for text in line["curve"] for point in json.loads(text)],
                                  columns=["step", "accuracy"])  # fmt: skip
            _draw_line(axes, index, name, points.groupby("step")["accuracy"])
        axes.set(xlabel="step", ylabel=_of_axis("accuracy", part))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    _save(frame, path, draw, "epsilon")


def _groups(part: pd.DataFrame, others: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs that are alike but for their seeds, and their name."""
    for _, line in part.groupby(["row", *others], sort=False, dropna=False):
        name = label(line.iloc[0].to_dict(), others)
        # A legend leaves out names that begin with an underscore.
        yield f" {name}" if name.startswith("_") else name, line


def _draw_line(axes: Axes, index: int, name: str, points: Any) -> None:
    """Mean and a band of one std of grouped accuracies, in the `index`-th style."""
    mean, std = 100 * points.mean(), 100 * points.std().fillna(0)
    colour = _of(_COLOURS, index)
    axes.plot(mean.index, mean, label=name, color=colour, marker=_of(_MARKERS, index),
              markersize=5, linestyle=_of(_DASHES, index // len(_COLOURS)))  # fmt: skip
    axes.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.15, lw=0)


def _of_axis(fact: str, part: pd.DataFrame) -> str:
    """The name of the vertical axis; bands and whiskers are there for several seeds only."""
    spread = ", ± standard deviation" if part["seed"].nunique() > 1 else ""
    return f"{fact.replace('_', ' ')} (%){spread}"


def _of(choices: Any, index: int) -> Any:
    return choices[index % len(choices)]


def _save(
    frame: pd.DataFrame, path: Path, draw: Callable[[Axes, pd.DataFrame], None], *apart: str
) -> None:
    """One panel for each data set, model and value of the settings `apart`, under one legend."""
    if path.suffix not in FORMATS:
        raise DpmixError(f"'{path}' is no picture; use a name that ends in {', '.join(FORMATS)}")
    apart = tuple(name for name in apart if frame[name].nunique() > 1)
    parts = [*frame.groupby(["data", "model", *apart], sort=False)]
    columns = min(len(parts), 2)
    lines = math.ceil(len(parts) / columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=bool(apart)).flat
        for axes, ((data, model, *values), part) in zip(panels, parts, strict=False):
            draw(axes, part)
            words = [f"{name} {short(value)}" for name, value in zip(apart, values, strict=True)]
            seeds = part["seed"].nunique()
            words += [f"{seeds} seeds"] if seeds > 1 else []
            axes.set_title(", ".join([data, model, *words]), fontsize=10)
        for empty in panels[len(parts) :]:
            empty.set_axis_off()
        handles, labels = panels[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)),
                          frameon=False, fontsize=9)  # fmt: skip
        try:
            figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})
        except OSError as error:
            raise DpmixError(
                f"cannot write '{path}': {error.strerror}; give another --output"
            ) from None
