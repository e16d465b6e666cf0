"""What a run asks of whatever draws its curves."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


# Checkable: the tests check annotations while the code runs.
@runtime_checkable
class Tracker(Protocol):
    """Takes named numbers by step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to the curves in `values`."""

    def close(self) -> None:
        """Write what is left."""
