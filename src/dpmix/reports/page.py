"""`report.html`, `compare.html` and `MODEL_CARD.md`: what the public files of runs say.

Guarantee: all are functions of `RunFacts`: no private image and no diagnostics are in them. A page
has no script and requests nothing from outside; all text is escaped.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmix.reports import figures
from dpmix.reports.compare import Comparison
from dpmix.reports.facts import (
    Row,
    RunFacts,
    accuracy_rows,
    audit_verdict,
    guarantee_rows,
    meaning,
    model_rows,
    number,
    percent,
    views_in_words,
)
from dpmix.reports.measured import balanced_accuracy, baseline, estimate, group_tables, unequal
from dpmix.reports.metrics import Metrics
from dpmix.reports.statement import ONE, shown_epsilon, shown_sigma
from dpmix.training.measures import RANKING, share_interval

CLASSES_SHOWN = 12

ClassScore = tuple[float, str, int]
"""Score of one class or label, its 95 % interval in words, and its number of images."""


def report_page(run: RunFacts) -> str:
    """The page of one run."""
    return _page([run], [run.data_name], None)


def compare_page(comparison: Comparison) -> str:
    """The page of several runs."""
    return _page(comparison.runs, comparison.names, comparison)


def model_card(run: RunFacts) -> str:
    """The model card of a run, without an audit, which may be made later."""
    run = replace(run, audit=None)
    # Markdown, not HTML: escaping for HTML would garble class names.
    return (
        _environment(escape=False)
        .get_template("model_card.md.j2")
        .render(
            run=run,
            statement=run.statement,
            one=ONE[run.statement.unit],
            metrics=run.metrics,
            rows=accuracy_rows(run) + guarantee_rows(run) + model_rows(run),
            groups=group_tables(run.metrics, percent),
        )
    )


def _cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table, and is no markup: no link, no HTML."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return re.sub(r"([\\`\[\]<>|])", r"\\\1", line)


@cache
def _environment(*, escape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("dpmix.reports"), undefined=StrictUndefined, autoescape=escape,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {
        "epsilon": shown_epsilon, "sigma": shown_sigma, "percent": percent, "number": number,
        "cell": _cell,
    }  # fmt: skip
    return environment


def _page(runs: Sequence[RunFacts], names: Sequence[str], comparison: Comparison | None) -> str:
    one, metrics = runs[0], [run.metrics for run in runs]
    found = one.statement.membership
    return (
        _environment(escape=True)
        .get_template("page.html.j2")
        .render(
            runs=runs,
            names=names,
            one=one,
            comparison=comparison,
            meaning=found and meaning(found, one.statement.unit),
            views_in_words=views_in_words(one.views),
            unit_in_words=ONE[one.statement.unit],
            verdict=one.audit and audit_verdict(one.audit),
            guarantee=_side_by_side(runs, guarantee_rows),
            accuracy=_side_by_side(runs, accuracy_rows),
            model=_side_by_side(runs, model_rows),
            classes=class_rows(metrics),
            class_measures=([], {}) if comparison else class_measures(one.metrics),
            groups=[] if comparison else group_tables(one.metrics, percent),
            unequal=unequal(one.metrics),
            majority=baseline(one.metrics, percent)[1].split(",")[0],
            balanced=None if one.metrics.accuracy is None else balanced_accuracy(one.metrics),
            classes_shown=CLASSES_SHOWN,
            colour=figures.colour,
            epsilon_figure=figures.epsilon_figure([run.statement for run in runs]),
            tradeoff_figure=None if comparison else figures.tradeoff_figure(one.statement),
            score_figure=figures.score_figure(metrics),
            reliability_figure=figures.reliability_figure(metrics),
            confusion_figure=None if comparison else figures.confusion_figure(one.metrics),
        )
    )


def _side_by_side(
    runs: Sequence[RunFacts], rows: Callable[[RunFacts], list[Row]]
) -> list[tuple[str, list[str]]]:
    """Each row's name with the value of every run."""
    found = [dict(rows(run)) for run in runs]
    names = dict.fromkeys(name for values in found for name in values)
    return [(name, [values.get(name, "-") for values in found]) for name in names]


def class_rows(metrics: Sequence[Metrics]) -> list[tuple[str, list[ClassScore | None]]]:
    """Each class in every run: where runs differ most first, then the lowest score."""

    def order(row: tuple[str, list[ClassScore | None]]) -> tuple[float, float]:
        shares = [one[0] for one in row[1] if one] or [1.0]
        return min(shares) - max(shares), min(shares)

    names = dict.fromkeys(name for run in metrics for name in run.class_images)
    rows = [(name, [_class_score(run, name) for run in metrics]) for name in names]
    return sorted(rows, key=order)


def _class_score(run: Metrics, name: str) -> ClassScore | None:
    if name not in run.class_scores:
        return None
    score, images, bounds = run.class_scores[name], run.class_images[name], None
    by_class = {} if run.measures is None else run.measures.by_class[name]
    if (found := by_class.get("auroc" if run.accuracy is None else "recall")) is not None:
        bounds = found.low, found.high
    elif run.accuracy is not None and images:
        bounds = share_interval(round(score * images), images)
    words = "" if bounds is None else f"{percent(bounds[0], 1)} to {percent(bounds[1], 1)}, "
    return score, words, images


def class_measures(run: Metrics) -> tuple[list[str], dict[str, list[str]]]:
    """Names of further measures of each class or label, and each one's values as text."""
    if run.measures is None:
        return [], {name: [] for name in run.class_images}
    shown = [one for one in RANKING if run.accuracy is not None or one != "auroc"]
    values = {
        name: [estimate(found[one], percent) if one in found else "-" for one in shown]
        for name, found in run.measures.by_class.items()
    }
    return [RANKING[one] for one in shown], values
