"""What `dpmix audit` finds, and the report that holds it, field by field."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from dpmix.errors import DpmixError
from dpmix.reports.statement import Part, Share, parse_json, read_file

Kind = Literal["gradient", "pattern"]
# A bound below this share of the claim comes from an audit of little power.
WEAK = 0.25


class Finding(Part):
    """An invariant of the steps, tested on the running code, or not (`tested`)."""

    name: str
    holds: bool
    found: str
    tested: bool = True

    @property
    def verdict(self) -> str:
        """In two or three words."""
        if not self.tested:
            return "not tested"
        return "as planned" if self.holds else "NOT AS PLANNED"


class AuditFindings(Part):
    """Lower bounds on the epsilon of a mechanism, found by attacking it.

    Attributes:
        claimed: epsilon of the plan at `delta`.
        one_run: lower bound that assumes nothing about the mechanism.
        two_worlds: lower bound that takes the canaries' noise for independent; of gradient
            canaries only.
        canaries: number of guesses, over all runs.
    """

    kind: Kind
    claimed: float
    delta: float
    one_run: float = Field(ge=0)
    two_worlds: float | None = Field(default=None, ge=0)
    confidence: Share
    canaries: int
    runs: int
    invariants: tuple[Finding, ...] = ()

    @property
    def lower_bound(self) -> float:
        """The larger of the bounds."""
        return max(self.one_run, self.two_worlds or 0.0)

    @property
    def broken(self) -> list[str]:
        """Names of the invariants that do not hold."""
        return [one.name for one in self.invariants if not one.holds]

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, at the confidence, or an invariant does not hold."""
        return self.lower_bound > self.claimed or bool(self.broken)

    @property
    def weak(self) -> bool:
        """Whether the audit had little power."""
        return self.lower_bound < WEAK * self.claimed


class AuditReport(AuditFindings):
    """The findings, with the settings that they are about."""

    refuted: bool
    plan: dict[str, Any]
    settings: dict[str, Any]
    written: str
    dpmix: str


def read_audit(path: Path) -> AuditReport:
    """Read what `dpmix audit --report` wrote; refuse a verdict that its findings contradict."""
    audit = parse_json(read_file(path), AuditReport, path, "audit")
    if audit.refuted != audit.violated:
        raise DpmixError(
            f"'{path}' was changed since it was written: its verdict does not follow from what it "
            "found; expected the file as dpmix audit wrote it"
        )
    return audit
