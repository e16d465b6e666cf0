"""`report.html`: a run on one page, for whoever is handed the model."""

from dpmix.reporting.page.class_bars import class_bars
from dpmix.reporting.page.confusion import LEVELS, confusion_matrix
from dpmix.reporting.page.epsilon_curve import epsilon_curve
from dpmix.reporting.page.example_views import example_views
from dpmix.reporting.page.plain_words import audit_verdict, meaning
from dpmix.reporting.page.plot_area import PlotArea
from dpmix.reporting.page.render import render
from dpmix.reporting.run_facts import RunFacts
from dpmix.reporting.views_in_words import views_in_words


def report_page(run: RunFacts) -> str:
    """Render the page from the run's public files; nothing else is read."""
    curve, spec = epsilon_curve(run.statement), run.config.view_spec(flip=False)
    steps = float(run.statement.planned_steps)
    return render(
        "report.html.j2",
        run=run,
        config=run.config,
        statement=run.statement,
        metrics=run.metrics,
        spec=spec,
        views_said=views_in_words(spec),
        meaning=meaning(float(run.statement.epsilon), run.statement.delta),
        classes=class_bars(run.metrics),
        matrix=confusion_matrix(run.metrics),
        levels=LEVELS,
        reliability_area=PlotArea(1.0, 1.0, height=400.0),
        curve=curve,
        curve_area=PlotArea(steps, 1.08 * curve.whole[-1][1]) if curve else None,
        accuracies=[(float(one.step), one.accuracy) for one in run.metrics.curve],
        accuracy_area=PlotArea(steps, 1.0),
        views=example_views(run.config),
        audit=run.audit,
        verdict=audit_verdict(run.audit) if run.audit else None,
    )
