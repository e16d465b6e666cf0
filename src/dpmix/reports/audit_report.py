"""What the report of `dpmix audit` holds, field by field."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dpmix.errors import DpmixError
from dpmix.reports.statement import Part, Share, read_json

WEAK = 0.25


"""A bound below this part of the claim has looked for little."""


class Finding(Part):
    """An invariant of the steps, tested on the running code."""

    name: str
    holds: bool
    found: str
    tested: bool = Field(True, description="false where these settings allow no test")

    @property
    def verdict(self) -> str:
        """In two or three words."""
        if not self.tested:
            return "not tested"
        return "as planned" if self.holds else "NOT AS PLANNED"


class AuditReport(Part):
    """Lower bounds on the epsilon of a run's settings, found by attacking them."""

    kind: Literal["gradient", "mislabelled", "pattern"]
    refuted: bool
    claimed: float
    delta: float
    one_run: float = Field(ge=0)
    two_worlds: float | None = Field(None, ge=0, description="of gradient canaries only")
    confidence: Share
    canaries: int
    runs: int
    invariants: tuple[Finding, ...] = ()
    plan: dict[str, Any]
    settings: dict[str, Any]
    written: str
    dpmix: str

    @property
    def lower_bound(self) -> float:
        """The larger of the bounds."""
        return max(self.one_run, self.two_worlds or 0.0)

    @property
    def broken(self) -> list[str]:
        """Names of the invariants that do not hold."""
        return [one.name for one in self.invariants if not one.holds]

    @property
    def weak(self) -> bool:
        """Whether it had little power."""
        return self.lower_bound < WEAK * self.claimed


def read_audit(path: Path) -> AuditReport:
    """Read what `dpmix audit --report` wrote.

    Raises:
        DpmixError: as `read_json` raises, or a verdict that its own findings contradict.
    """
    audit = read_json(path, AuditReport, "audit")
    if audit.refuted != (audit.lower_bound > audit.claimed or bool(audit.broken)):
        raise DpmixError(
            f"'{path}' was changed since it was written: its verdict does not follow from what it "
            "found; expected the file as dpmix audit wrote it"
        )
    return audit
