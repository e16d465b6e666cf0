"""The charts on a page, as SVG by matplotlib. The same facts give the same bytes.

They suit a light and a dark page: no background, text and axes in the colour of the page's text.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from dpmix.privacy.selection import epsilon_stated
from dpmix.privacy.tradeoff import tradeoff_stated
from dpmix.reports.metrics import Metrics
from dpmix.reports.statement import Statement

COLOURS = ("#3b7ddd", "#d9730d", "#2f9e62", "#9b6bd6", "#1797a0", "#d0508f")
_INK = "#010203"  # replaced by the colour of the page's text
_STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "dpmix", "text.parse_math": False, "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.15,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color",
                     "ytick.color", "grid.color"), _INK),
}  # fmt: skip
_MOST_LABELLED = 12  # classes of a confusion matrix with room for names and numbers

Points = list[tuple[float, float]]


def epsilon_curve(statement: Statement) -> Points:
    """(steps, epsilon) from 0 to the last planned step; empty without privacy.

    It is a function of the plan, and so public. The first steps, where epsilon rises steeply, have
    more points.
    """
    if not statement.private:
        return []
    last = statement.planned_steps
    steps = {0, statement.steps, last, *map(int, np.geomspace(1, last, 12) if last else ())}
    return [
        (float(step), epsilon_stated(statement.sampling_rate, statement.noise_multiplier, step,
                                     statement.delta, statement.expected_runs,
                                     tuple(statement.spent_before)))
        for step in sorted(steps)
    ]  # fmt: skip


def epsilon_figure(statements: Sequence[Statement]) -> Markup | None:
    """Epsilon against steps, a line per run, dashed after its last step; None without privacy."""
    curves = [epsilon_curve(statement) for statement in statements]

    def draw(axes: Any) -> None:
        for index, (run, curve) in enumerate(zip(statements, curves, strict=True)):
            spent = [point for point in curve if point[0] <= run.steps]
            planned = [point for point in curve if point[0] >= run.steps]
            for points, style in ((planned, "--"), (spent, "-"), (spent[-1:], "o")):
                axes.plot(*np.reshape(points, (-1, 2)).T, style, color=colour(index))
        axes.set(xlabel="steps", ylabel="epsilon", xlim=(0, None), ylim=(0, None))

    return _svg(draw, "Epsilon against steps") if any(curves) else None


def tradeoff_figure(run: Statement) -> Markup | None:
    """The most that a test of membership finds against its false positives; None without privacy.

    Like epsilon, it is of all planned steps and a function of the plan.
    """
    if not run.private:
        return None
    curve = tradeoff_stated(
        run.sampling_rate, run.noise_multiplier, run.planned_steps, run.delta, run.expected_runs,
        tuple(run.spent_before),
    )  # fmt: skip
    percent = np.geomspace(0.01, 100, 200)

    def draw(axes: Any) -> None:
        axes.plot(percent, percent, "--", color=_INK, alpha=0.5, linewidth=1)
        axes.plot(percent, 100 * curve.most_found(percent / 100), color=colour(0))
        ticks = ["0.01", "0.1", "1", "10", "100"]
        axes.set(xlabel="false positives (%)", ylabel="found at most (%)", xscale="log",
                 xlim=(0.01, 100), ylim=(0, 102))  # fmt: skip
        axes.set_xticks([float(one) for one in ticks], ticks)

    return _svg(draw, "Found at most against false positives")


def score_figure(runs: Sequence[Metrics]) -> Markup:
    """Accuracy or mean AUROC against steps, a line per run."""
    measures = " or ".join(dict.fromkeys(run.measure for run in runs))

    def draw(axes: Any) -> None:
        for index, run in enumerate(runs):
            points = np.array([(one.step, 100 * one.score) for one in run.curve])
            axes.plot(*points.T, "o-", color=colour(index), markersize=4)
        axes.set(xlabel="steps", ylabel=f"{measures} (%)", xlim=(0, None), ylim=(0, 102))

    return _svg(draw, f"{measures} against steps")


def reliability_figure(runs: Sequence[Metrics]) -> Markup:
    """Accuracy against confidence; the area of a circle is its share of the answers."""
    across, up = "confidence", "accuracy"
    if all(run.accuracy is None for run in runs):
        across, up = "probability", "labels present"

    def draw(axes: Any) -> None:
        axes.plot([0, 100], [0, 100], "--", color=_INK, alpha=0.5, linewidth=1)
        for index, run in enumerate(runs):
            answers = sum(one.images for one in run.reliability)  # of several labels to an image
            bins = [(100 * one.confidence, 100 * one.accuracy, 300 * one.images / answers)
                    for one in run.reliability]  # fmt: skip
            axes.scatter(*np.reshape(bins, (-1, 3)).T, color=colour(index), alpha=0.7)
        axes.set(xlabel=f"{across} (%)", ylabel=f"{up} (%)", xlim=(0, 102), ylim=(0, 102))

    return _svg(draw, f"{up} against {across}")


def confusion_figure(run: Metrics) -> Markup | None:
    """The confusion matrix: blue is right, orange wrong, stronger for more of the true class.

    None where an image can have several labels.
    """
    if run.accuracy is None:
        return None
    names = [*run.class_images]
    counts = np.array([[run.confusion[true].get(other, 0) for other in names] for true in names])
    blue, orange = ([int(one[i : i + 2], 16) / 255 for i in (1, 3, 5)] for one in COLOURS[:2])
    hues = np.where(np.eye(len(names), dtype=bool)[..., None], blue, orange)
    # On a scale of square roots a single image among thousands is still visible.
    strength = (counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)) ** 0.5
    short = [name if len(name) <= 24 else f"{name[:11]}…{name[-12:]}" for name in names]

    def draw(axes: Any) -> None:
        axes.imshow(np.dstack([hues, strength]), interpolation="none")
        axes.grid(visible=False)
        axes.set(xlabel="predicted class", ylabel="true class", xticks=[], yticks=[])
        if len(names) <= _MOST_LABELLED:
            axes.set_xticks(range(len(names)), short, rotation=45, ha="right")
            axes.set_yticks(range(len(names)), short)
            for row, column in np.ndindex(*counts.shape):
                axes.text(column, row, counts[row, column], ha="center", va="center", fontsize=8)

    return _svg(draw, "Confusion matrix", 4.5)


def colour(index: int) -> str:
    """The colour of the run at place `index`."""
    return COLOURS[index % len(COLOURS)]


def _svg(draw: Callable[[Any], None], label: str, height: float = 2.8) -> Markup:
    # Imported here: `import dpmix` should not wait for it.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    text = io.StringIO()
    # A class may have a name that the font lacks: the browser has another one.
    with mpl.rc_context(_STYLE), warnings.catch_warnings(action="ignore"):
        figure = Figure(figsize=(4.5, height), layout="constrained")
        draw(figure.subplots())
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1))
