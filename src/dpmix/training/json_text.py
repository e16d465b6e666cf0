"""JSON as every reader takes it."""

import json
import math
from typing import Any


def to_json(value: Any, indent: int | None = 2) -> str:
    """JSON without the non-standard Infinity and NaN: they become strings."""
    return json.dumps(_plain(value), indent=indent, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
