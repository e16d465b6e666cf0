"""`verify`: is a statement about these weights, and does its epsilon hold by other accountants?

Guarantee: what `verify` accepts states no smaller epsilon than sigma, q and T give, by
dp-accounting's PLD and RDP accountants and, where `prv-accountant` is installed, by a third one. It
reads no private image, and it can't know whether the training did what the statement says: see
`dpmix audit`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from dpmix.data.named import public_name
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian
from dpmix.privacy.balance import mean_weight
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.audit_report import read_audit
from dpmix.reports.files import ModelFile, RunFiles, parse_settings
from dpmix.reports.guarantee import privacy_statement
from dpmix.reports.metrics import read_metrics
from dpmix.reports.prv import epsilon_prv
from dpmix.reports.statement import Settings, Statement, read_file
from dpmix.views.spec import ViewSpec

Bounds = tuple[float, float]
"""Lower and upper bound of an epsilon."""

# Relative difference that is left to rounding: sums of 16 digits, in another order or version.
_SAME = 1e-6
# What the grid of the PLD accountant may add to epsilon.
_ROUNDED_UP = 0.01
# How far below its target calibration may end, at an epsilon of a few hundredths.
_CALIBRATED = 0.03
# By Renyi DP. Above this, the other accountants take minutes and gigabytes.
_MOST_EPSILON = 1e4


@dataclass(frozen=True)
class Verified:
    """A statement that holds; `prv` bounds its epsilon, where `prv-accountant` is installed."""

    statement: Statement
    prv: Bounds | None


def verify(path: Path) -> Verified:
    """Check a run: its hashes, its arithmetic, and every epsilon that it states.

    For the best run of a private selection, the PRV accountant gives only a lower bound: the
    epsilon of a single run.

    Args:
        path: a run's folder, or its `model.safetensors` alone.

    Raises:
        DpmixError: the first thing that does not hold; a run without privacy; a refuting audit.
    """
    files = RunFiles(path)
    if not path.is_file():
        files.refuse_if_missing(files.model)
    model = ModelFile(path if path.is_file() else files.model)
    model.check_weights()
    statement = model.statement
    if not statement.private:
        raise DpmixError(f"'{path}' is NOT PRIVATE and says so: there is no guarantee to verify")
    try:
        plan = _plan(statement, model.settings)
        _check_count(statement, model.settings["privacy"])
        _check_rdp(statement, plan)
        _check_fields(statement, plan, model.settings)
        prv = _check_prv("epsilon", float(statement.epsilon), plan, plan.steps)
        if statement.epsilon_at_fixed_stop is not None:
            at_stop = statement.epsilon_at_fixed_stop
            _check_prv("epsilon_at_fixed_stop", at_stop, plan, statement.steps)
        if path.is_dir():
            _check_folder(files, model, plan)
    except (KeyError, TypeError, AttributeError) as error:
        raise _broken(
            f"'{path}' has no settings of a run ({type(error).__name__} {error})"
        ) from None
    return Verified(statement, prv)


def _broken(what: str) -> DpmixError:
    return DpmixError(f"{what}: the run's files contradict its statement; do not rely on it")


def _plan(statement: Statement, settings: Settings) -> PrivacyPlan:
    """The plan of the settings; only sigma, N and what was spent before are the statement's."""
    privacy, n = settings["privacy"], statement.examples
    rate, batch = privacy["sampling_rate"], privacy["expected_batch_size"]
    if rate is None:
        rate = batch / n
        if found := settings["input"].get("prevalences"):
            batch *= mean_weight(found)
    return PrivacyPlan(
        sampling_rate=rate,
        denominator=privacy["denominator"] or batch,
        steps=max(1, round(min(privacy["epochs"] / rate, 1e18)))
        if privacy["steps"] is None
        else privacy["steps"],
        noise_multiplier=statement.noise_multiplier,
        max_grad_norm=privacy["max_grad_norm"],
        delta=privacy["delta"],
        sensitivity_multiplier=ViewSpec(settings["views"]["method"]).sensitivity_multiplier,
        target_epsilon=privacy["epsilon"],
        n=n if privacy["sampling_rate"] is None else None,
        prior_releases=tuple(statement.spent_before),
        expected_runs=privacy["expected_runs"],
        unit=privacy["unit"],
    )


def _check_rdp(statement: Statement, plan: PrivacyPlan) -> None:
    """Check by Renyi DP first: it is cheap, and finds numbers that PLD would take minutes for."""
    for name, follows in (
        ("sampling_rate", plan.sampling_rate),
        ("planned_steps", plan.steps),
        ("noise_std", plan.noise_std),
        ("epsilon_rdp", plan.epsilon_rdp),
    ):
        _refuse_other(f"the statement's {name}", getattr(statement, name), follows)
    if not plan.epsilon_rdp <= _MOST_EPSILON:
        raise DpmixError(
            f"epsilon_rdp of the whole run is {plan.epsilon_rdp:.6g}, which promises nothing; "
            f"verify computes up to {_MOST_EPSILON:g}: do not rely on this run"
        )


def _check_count(statement: Statement, privacy: Mapping[str, Any]) -> None:
    """Check that a private count of the classes is among the earlier releases."""
    spend = privacy.get("spend")
    costs = [epsilon_gaussian(sigma, statement.delta) for sigma in statement.spent_before[-1:]]
    if spend is not None and not any(math.isclose(c, spend, rel_tol=_CALIBRATED) for c in costs):
        raise _broken(
            f"the settings pay epsilon {spend:g} for a count of the classes, and the statement's "
            f"spent_before is {statement.spent_before}"
        )


def _check_fields(statement: Statement, plan: PrivacyPlan, settings: Settings) -> None:
    """State the guarantee again, and refuse every field that differs."""
    target, backbone = plan.target_epsilon, statement.public_inputs.backbone
    least = target * (1 - _CALIBRATED) if plan.steps else 0.0
    if not least <= plan.epsilon <= target * (1 + _SAME):
        raise _broken(
            f"the settings ask for epsilon {target:g}, but the statement's sigma, q and "
            f"{plan.steps} steps give {plan.epsilon:.6g}"
        )
    # The settings of a run folder do not name its engine.
    engine = "bookkeeping" if statement.float32_sums else "auto"
    again = privacy_statement(
        {**settings, "run": {**settings["run"], "engine": engine}},
        plan,
        statement.public_inputs,
        steps=statement.steps,
        weights_sha256=statement.weights_sha256,
        config_sha256=statement.config_sha256,
        run_id=statement.run_id,
        resumed_at=statement.resumed_at,
        processes=statement.processes,
        copies=statement.repeats.most if statement.repeats else 1,
    )
    for name in Statement.model_fields:
        if name not in ("written", "versions", "sha256"):
            stated, follows = getattr(statement, name), getattr(again, name)
            _refuse_other(f"the statement's {name}", stated, follows)
    of_backbone = settings["input"]["backbone_sha256"]
    _refuse_other("backbone's sha256", backbone and backbone.weights_sha256, of_backbone)


def _refuse_other(name: str, stated: object, follows: object) -> None:
    if not _same(stated, follows):
        raise _broken(f"{name} is {stated}, but {follows} follows")


def _same(stated: Any, follows: Any) -> bool:
    if isinstance(stated, BaseModel) and isinstance(follows, BaseModel):
        return all(_same(value, getattr(follows, name)) for name, value in stated)
    if isinstance(stated, dict) and isinstance(follows, dict):
        return stated.keys() == follows.keys() and all(_same(stated[k], follows[k]) for k in stated)
    if isinstance(stated, int | float) and isinstance(follows, int | float):
        return math.isclose(stated, follows, rel_tol=_SAME)
    return bool(stated == follows)


def _check_prv(name: str, stated: float, plan: PrivacyPlan, steps: int) -> Bounds | None:
    bounds = epsilon_prv(
        plan.sampling_rate, plan.noise_multiplier, steps, plan.delta, plan.prior_releases
    )
    if bounds is None:
        return None
    low, high = bounds
    # The best of several runs has a larger epsilon than one of them, which is all that PRV gives.
    most = math.inf if plan.expected_runs is not None else high * (1 + _ROUNDED_UP)
    if not low <= stated <= most:
        raise _broken(
            f"the statement's {name} is {stated:.6g}, but by the PRV accountant it lies between "
            f"{low:.6g} and {high:.6g}"
        )
    return bounds


def _check_folder(files: RunFiles, model: ModelFile, plan: PrivacyPlan) -> None:
    """Check what the other files of a run say of the guarantee."""
    statement = model.statement
    if read_file(files.privacy).decode(errors="replace") != model.statement_text:
        raise _broken(f"'{files.privacy}' is not the statement in '{model.path.name}'")
    copy = parse_settings(read_file(files.config), files.config)
    for section, settings in model.settings.items():
        for name, value in (settings or {}).items():
            found = copy[section][name]
            if value not in (found, public_name(found) if name == "data" else found):
                raise _broken(
                    f"'{files.config}' has {name} {found}, and '{model.path.name}' has {value}"
                )
    drawn = [files.report] if statement.complete or files.report.exists() else []
    for path in (files.card, *drawn):
        if statement.guarantee.encode() not in read_file(path):
            raise _broken(f"'{path}' does not hold the statement's guarantee")
    curve = read_metrics(files.metrics).curve
    steps = [point.step for point in curve]
    if steps != sorted({*steps}) or steps[-1:] != [statement.steps]:
        raise _broken(f"the curve in '{files.metrics}' does not end at step {statement.steps}")
    for point in curve:
        # Anyone who has an earlier model of the run relies on these.
        name = f"the curve's epsilon at step {point.step} in '{files.metrics}'"
        _refuse_other(name, point.epsilon, plan.epsilon_after(point.step))
    if files.audit.exists() and read_audit(files.audit).refuted:
        raise DpmixError(f"the audit in '{files.audit}' REFUTED the guarantee: do not rely on it")
