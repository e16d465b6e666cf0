"""Templates to HTML: everything is escaped but what a template itself says."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from dpmix.reporting.rounding import shown_epsilon, shown_sigma


def render(template: str, **values: Any) -> str:
    """Fill a template of the package."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("dpmix.reporting"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["epsilon"] = shown_epsilon
    environment.filters["sigma"] = shown_sigma
    environment.filters["percent"] = _percent
    environment.filters["number"] = _number
    return environment


def _percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


def _number(value: float | str) -> str:
    """A number as people write it; `inf` and `nan`, which JSON has as text, as they are."""
    if isinstance(value, str):
        return value
    return f"{value:.6g}" if isinstance(value, float) else f"{value:,}"
