"""Whether an audit is of a run's own settings: the same plan, method, model and kind of data.

Where things lie and how they are computed may differ: the audit may have run on another machine.
"""

import math
from typing import Any

from dpmix.config import LEAVES, Config
from dpmix.data.load import public_name
from dpmix.errors import DpmixError
from dpmix.reporting.audit_model import AuditReport, read_audit
from dpmix.reporting.statement_model import Statement
from dpmix.resume import FREE
from dpmix.training.run_folder import RunFolder

# As near to the least sigma as calibration ends, twice.
_CALIBRATED = 1e-3


def audit_of(folder: RunFolder, config: Config, statement: Statement) -> AuditReport | None:
    """The audit in a run's folder, if there is one.

    Args:
        folder: of the run.
        config: its settings.
        statement: its guarantee.

    Raises:
        DpmixError: as `read_audit` raises, or an audit of something else.
    """
    if not folder.audit.exists():
        return None
    audit = read_audit(folder.audit)
    for name, audited, own in (*_settings(audit, config), *_plan(audit, statement)):
        if audited != own and not (name == "noise_multiplier" and _near(audited, own)):
            raise DpmixError(
                f"'{folder.audit}' is an audit of other settings: its {name} is {audited}, the "
                f"run's {own}; move it away, or audit this run: dpmix audit --config "
                f"{folder.config} --report {folder.audit}"
            )
    return audit


def _settings(audit: AuditReport, config: Config) -> list[tuple[str, Any, Any]]:
    theirs, own = audit.settings, config.model_dump(mode="json", exclude={"run"})
    compared = [
        (name, theirs.get(section, {}).get(name), own[section][name])
        for name, section in LEAVES.items()
        # What was spent is compared as numbers, in the plan.
        if section in own and name not in FREE | {"spent"}
    ]
    return [
        ("data", theirs.get("data", {}).get("data"), public_name(config.data.data)),
        # Audits from before there was another reading do not say theirs.
        ("input", {"reading": 1} | theirs.get("input", {}), own["input"]),
        *compared,
    ]


def _plan(audit: AuditReport, statement: Statement) -> list[tuple[str, Any, Any]]:
    pairs = {
        "sampling_rate": statement.sampling_rate,
        "denominator": statement.denominator,
        "steps": statement.planned_steps,
        "noise_multiplier": statement.noise_multiplier,
        "max_grad_norm": statement.max_grad_norm,
        "delta": statement.delta,
        "n": statement.examples,
        "spent": statement.spent_before,
    }
    return [(name, audit.plan.get(name), own) for name, own in pairs.items()]


def _near(audited: object, own: float) -> bool:
    """Calibrated elsewhere, sigma ends near enough."""
    return isinstance(audited, float) and math.isclose(audited, own, rel_tol=_CALIBRATED)
