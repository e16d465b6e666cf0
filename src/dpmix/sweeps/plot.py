"""A sweep's results as pictures: against a setting, class by class, and over the steps."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dpmix.errors import DpmixError, nearest, to_install
from dpmix.sweeps.run import FACTS, VIEWS
from dpmix.sweeps.table import label, short, swept

try:
    import matplotlib as mpl
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise DpmixError(f"plots need matplotlib and pandas; {to_install('sweep')}") from None


FORMATS = (".png", ".svg", ".pdf")


_WIDTH, _HEIGHT, _PANELS_A_LINE = 6.4, 4.2, 2


_ON_A_LOG_AXIS = ("epsilon", "mixup_alpha")


# Colours that differ for all kinds of colour vision (Okabe & Ito), and markers beside them.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


_MARKERS = "osD^vPX"


# Of a second and third round of the colours.
_DASHES, _HATCHES = ("-", "--", ":"), ("", "//", "..")


_STYLE: Any = {"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "dpmix",
          "axes.grid": True, "grid.color": "#e6e6e6", "axes.axisbelow": True,
          "text.parse_math": False}  # fmt: skip


_MANY_CLASSES = 20


_LEAST_RANGE = 2.0


def draw_against(frame: "pd.DataFrame", path: Path, *, x: str | None, fact: str) -> None:
    """Draw `fact` against the setting `x`, a line a row: mean, and a band of one std over seeds.

    Against a number of views the rows are the points of one line.

    Args:
        frame: of `read_results`.
        path: of the picture; its ending is the format.
        x: a setting that the sweep varied, or of `VIEWS`; None: epsilon, or what it varied instead.
        fact: of `FACTS`.

    Raises:
        DpmixError: an unknown setting or fact, rows that have as many views, or a format that is
            not known.
    """
    known = swept(frame)
    x = x or (known or ["epsilon"])[0]
    told = [name for name in VIEWS if name in frame]
    for given, names in ((x, [*known, "epsilon", *told]), (fact, FACTS)):
        if given not in names:
            raise DpmixError(f"unknown name '{given}': {nearest(given, names)}")
    if x in VIEWS:
        frame = _one_line(frame, x)
    others = ["row", *(name for name in known if name != x)]

    def draw(axes: Axes, part: "pd.DataFrame") -> None:
        for index, (name, line) in enumerate(_groups(part, others)):
            _draw_line(axes, index, name, line.groupby(x)[fact])
        axes.set(xlabel=x, ylabel=_told(fact, part))
        _zoom_no_closer(axes)
        values = sorted(part[x].unique())
        if x in _ON_A_LOG_AXIS and values[0] > 0:
            axes.set_xscale("log")
        axes.set_xticks(values, [short(value) for value in values], minor=False)
        axes.minorticks_off()

    _save(frame, path, draw)


def draw_classes(frame: "pd.DataFrame", path: Path) -> None:
    """Draw the accuracy of every class, a bar a row, a panel an epsilon: mean and std over runs.

    Raises:
        DpmixError: too many classes to tell apart, or a format that is not known.
    """
    names = _names_at_one_epsilon(frame)

    def draw(axes: Axes, part: "pd.DataFrame") -> None:
        lines = [*_groups(part, names)]
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
        axes.set(ylabel=_told("accuracy", part), xlabel="class", ylim=(0, 100))

    _save(frame, path, draw, "epsilon")


def draw_curves(frame: "pd.DataFrame", path: Path) -> None:
    """Draw accuracy over the steps, a line a row, a panel an epsilon: mean, and a band of one std.

    Raises:
        DpmixError: a format that is not known.
    """
    names = _names_at_one_epsilon(frame)

    def draw(axes: Axes, part: "pd.DataFrame") -> None:
        for index, (name, line) in enumerate(_groups(part, names)):
            told = [point for text in line["curve"] for point in json.loads(text)]
            points = pd.DataFrame(told, columns=["step", "accuracy"]).groupby("step")["accuracy"]
            _draw_line(axes, index, name, points)
        axes.set(xlabel="step", ylabel=_told("accuracy", part))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    _save(frame, path, draw, "epsilon")


def _one_line(frame: "pd.DataFrame", x: str) -> "pd.DataFrame":
    """All rows as one, told apart by `x` alone."""
    for value, same in frame.groupby(x)["row"]:
        if same.nunique() > 1:
            first, second, *_ = same.unique()
            raise DpmixError(
                f"{x} does not tell the rows apart: '{first}' and '{second}' have {value}; leave "
                "out --x for a line a row"
            )
    return frame.assign(row="")


def _groups(part: "pd.DataFrame", names: list[str]) -> Iterator[tuple[str, "pd.DataFrame"]]:
    """Runs that are alike but for their seeds, and what to call them."""
    for values, line in part.groupby(names, sort=False, dropna=False):
        name = label(dict(zip(names, values, strict=True)), names[1:])
        # A legend leaves out what begins with an underscore.
        yield f" {name}" if name.startswith("_") else name, line


def _names_at_one_epsilon(frame: "pd.DataFrame") -> list[str]:
    """What tells runs of one panel apart, but for their seeds."""
    return ["row", *(name for name in swept(frame) if name != "epsilon")]


def _draw_line(axes: Axes, index: int, name: str, points: Any) -> None:
    """Mean and a band of one std of grouped accuracies, in the `index`-th style."""
    mean, std = 100 * points.mean(), 100 * points.std().fillna(0)
    colour = _of(_COLOURS, index)
    axes.plot(mean.index, mean, label=name, color=colour, marker=_of(_MARKERS, index),
              markersize=5, linestyle=_of(_DASHES, index // len(_COLOURS)))  # fmt: skip
    axes.fill_between(mean.index, mean - std, mean + std, color=colour, alpha=0.15, lw=0)


def _told(fact: str, part: "pd.DataFrame") -> str:
    """What the vertical axis shows; bands and whiskers are there for several seeds only."""
    spread = ", ± standard deviation" if part["seed"].nunique() > 1 else ""
    return f"{fact.replace('_', ' ')} (%){spread}"


def _zoom_no_closer(axes: Axes) -> None:
    """At least two points of accuracy: less is mostly noise."""
    low, high = axes.get_ylim()
    if high - low < _LEAST_RANGE:
        middle = (low + high) / 2
        axes.set_ylim(middle - _LEAST_RANGE / 2, middle + _LEAST_RANGE / 2)


def _of(choices: Any, index: int) -> Any:
    return choices[index % len(choices)]


def _save(
    frame: "pd.DataFrame", path: Path, draw: Callable[[Axes, "pd.DataFrame"], None], *apart: str
) -> None:
    """One panel for each data set, model and value of the settings `apart`, under one legend."""
    if path.suffix not in FORMATS:
        raise DpmixError(f"'{path}' is no picture; expected a name that ends in "
                         f"{', '.join(FORMATS)}")  # fmt: skip
    apart = tuple(name for name in apart if frame[name].nunique() > 1)
    parts = [*frame.groupby(["data", "model", *apart], sort=False)]
    columns = min(len(parts), _PANELS_A_LINE)
    lines = math.ceil(len(parts) / columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * columns, _HEIGHT * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=bool(apart)).flat
        for axes, ((data, model, *values), part) in zip(panels, parts, strict=False):
            draw(axes, part)
            said = [f"{name} {short(value)}" for name, value in zip(apart, values, strict=True)]
            seeds = part["seed"].nunique()
            said += [f"{seeds} seeds"] if seeds > 1 else []
            axes.set_title(", ".join([data, model, *said]), fontsize=10)
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
