"""`compare.html`: several runs on one page."""

from collections.abc import Sequence

from dpmix.reporting.page.class_bars import MOST_SHOWN, ClassBar, class_bars
from dpmix.reporting.page.epsilon_curve import epsilon_curve
from dpmix.reporting.page.plain_words import claimed_epsilon
from dpmix.reporting.page.plot_area import PlotArea
from dpmix.reporting.page.render import render
from dpmix.reporting.run_facts import RunFacts

Row = tuple[str, list[str]]


def compare_page(
    names: Sequence[str],
    runs: Sequence[RunFacts],
    *,
    settings: list[Row],
    data: list[Row],
    together: tuple[float, float] | None,
    why_not: str | None,
    repeated: tuple[int, float] | None,
) -> str:
    """Render the page.

    Args:
        names: of the runs.
        runs: what their public files say.
        settings: those that differ, with each run's value.
        data: what differs of the data.
        together: (epsilon, delta) for whoever sees all of the runs, where it is known.
        why_not: why it is not known, with the run's name.
        repeated: how often the most frequent image occurs, and that epsilon of the person in it.
    """
    curves = [epsilon_curve(run.statement) for run in runs]
    highest = [curve.whole[-1][1] for curve in curves if curve]
    steps = float(max(run.statement.planned_steps for run in runs))
    return render(
        "compare.html.j2",
        names=names,
        runs=runs,
        settings=settings,
        data=data,
        together=together,
        why_not=why_not,
        claimed=[claimed_epsilon(run.statement) for run in runs],
        repeated=repeated,
        overall=[class_bars(run.metrics).overall for run in runs],
        classes=_by_class(runs),
        most_shown=MOST_SHOWN,
        curves=curves,
        curve_area=PlotArea(steps, 1.08 * max(highest)) if highest else None,
        accuracies=[[(float(one.step), one.accuracy) for one in run.metrics.curve] for run in runs],
        accuracy_area=PlotArea(steps, 1.0),
    )


def _by_class(runs: Sequence[RunFacts]) -> list[tuple[str, list[ClassBar | None]]]:
    """Each class with its bar of each run; of many classes, those that differ most come first."""
    bars = [{bar.name: bar for bar in class_bars(run.metrics).bars} for run in runs]
    names = dict.fromkeys(name for run in runs for name in run.metrics.class_accuracy)
    rows = [(name, [of_run.get(name) for of_run in bars]) for name in names]
    if len(rows) > MOST_SHOWN:
        rows.sort(key=lambda row: -_spread(row[1]))
    return rows


def _spread(bars: list[ClassBar | None]) -> float:
    shares = [bar.accuracy for bar in bars if bar]
    return max(shares) - min(shares)
