"""`MODEL_CARD.md`: what everyone who uses the model needs to know."""

import re
from dataclasses import replace

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmix.reports.facts import RunFacts, accuracy_rows, guarantee_rows, model_rows, percent


def model_card(run: RunFacts) -> str:
    """Render the card of a run, without an audit, which may be made later."""
    run = replace(run, audit=None)
    environment = Environment(
        loader=PackageLoader("dpmix.reports"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown, not HTML: escaping would garble class names
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "percent": percent}
    return environment.get_template("model_card.md.j2").render(
        run=run,
        statement=run.statement,
        metrics=run.metrics,
        rows=accuracy_rows(run) + guarantee_rows(run) + model_rows(run),
    )


def _cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table, and is no markup: no link, no HTML."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return re.sub(r"([\\`\[\]<>|])", r"\\\1", line)
