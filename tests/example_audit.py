"""What `dpmix audit --report` would have written of a run, without the hours of an audit."""

import json

from dpmix.runs.config import Config


def audit_of_run(folder, **changes):
    """As a dictionary; `changes` replace its fields."""
    statement = json.loads((folder / "privacy.json").read_text())
    config = Config.load(folder / "config.yaml")
    plan = {
        "sampling_rate": statement["sampling_rate"],
        "denominator": statement["denominator"],
        "steps": statement["planned_steps"],
        "noise_multiplier": statement["noise_multiplier"],
        "max_grad_norm": statement["max_grad_norm"],
        "delta": statement["delta"],
        "n": statement["examples"],
        "prior_releases": statement["spent_before"],
    }
    return {
        "kind": "gradient", "refuted": False, "claimed": statement["epsilon"],
        "delta": statement["delta"], "one_run": 0.9, "two_worlds": 1.2, "confidence": 0.95,
        "canaries": 2000, "runs": 1,
        "invariants": [{"name": "noise in every step", "holds": True, "found": "as it should be"}],
        "plan": plan, "settings": config.published(),
        "written": "2026-01-02T03:04:05+00:00", "dpmix": "0.1.0",
    } | changes  # fmt: skip
