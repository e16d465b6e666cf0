"""`MODEL_CARD.md`: what a person needs to know who is handed the model."""

import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmix.config import Config
from dpmix.data.load import public_name
from dpmix.reporting.rounding import shown_epsilon, shown_sigma
from dpmix.reporting.views_in_words import views_in_words
from dpmix.training.evaluate import has_diverged


def model_card(config: Config, statement: dict[str, Any], numbers: dict[str, Any]) -> str:
    """Render the card from the privacy statement and the metrics; nothing else is read."""
    environment = Environment(
        loader=PackageLoader("dpmix.reporting"),
        undefined=StrictUndefined,
        # Markdown, not HTML: escaping would garble class names.
        autoescape=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "epsilon": shown_epsilon, "sigma": shown_sigma, "cell": _cell, "diverged": has_diverged,
    }  # fmt: skip
    template = environment.get_template("model_card.md.j2")
    return template.render(
        config=config,
        statement=statement,
        numbers=numbers,
        data_name=public_name(config.data.data),
        views=views_in_words(config.view_spec(flip=False)),
    )


def _cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table, and is no markup: no link, no HTML."""
    line = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return re.sub(r"([\\`\[\]<>|])", r"\\\1", line)
