"""`verify`: do a run's files bear each other out, and does its epsilon hold by another accountant?

Guarantee: what `verify` accepts states no smaller epsilon than sigma, q and T give, by
dp-accounting again and by another accountant. It reads no private image, and it can't tell whether
the training did what its statement says: for that there is `dpmix audit`.
"""

import json
import math
import sys
from dataclasses import dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

from jinja2 import UndefinedError

from dpmix.errors import DISTRIBUTION, DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.reports.model_card import model_card
from dpmix.reports.page import RunFacts, audit_verdict, audited_facts, report_page
from dpmix.reports.prv import epsilon_prv
from dpmix.reports.statement import (
    MECHANISM,
    Statement,
    assumptions,
    guarantee,
    read_statement,
    versions,
)
from dpmix.runs.checkpoint import newest_step
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder

# Sums of 16 digits, in another order or version.
_SAME = 1e-6


# What the PLD accountant's grid may add to epsilon.
_ROUNDED_UP = 0.01


# How far below its target calibration may end, at an epsilon of a few hundredths.
_CALIBRATED = 0.03


# By Renyi DP: of more, the other accountants take minutes and gigabytes.
_MOST_EPSILON = 1e4


_DRAWN_BY = ("dpmix", "numpy", "dp-accounting")


@dataclass(frozen=True)
class Verified:
    """A statement that holds.

    Attributes:
        statement: what it says.
        prv: lower bound, estimate and upper bound of epsilon, of all planned steps, by the other
            accountant.
        checkpoint: step of the newest checkpoint that is still there, 0 if none is.
        audit_shown: whether the page shows the audit in the folder; None where there is none.
        word_for_word: whether card and page were compared with what the numbers give; otherwise a
            different version wrote them, and only the guarantee was looked for in them.
    """

    statement: Statement
    prv: tuple[float, float, float]
    checkpoint: int
    audit_shown: bool | None
    word_for_word: bool


def verify(root: Path) -> Verified:
    """Check the run at `root`: hashes, arithmetic, settings, card, page, and every epsilon.

    The model's own is computed by a second accountant too.

    Of a private selection's best run, the second accountant checks a lower bound alone: one run's.

    Raises:
        DpmixError: the first thing that does not hold, a run that is not private, or an audit in
            its folder that refuted the claim or is of something else.
    """
    folder = RunFolder(root)
    said = read_statement(folder.privacy)
    expect_hash(folder.model, said.weights_sha256)
    expect_hash(folder.config, said.config_sha256)
    config = Config.load(folder.config)
    if not said.private:
        raise DpmixError(f"'{root}' is NOT PRIVATE and says so: there is no guarantee to verify")
    plan = _plan_of(said, config)
    _check_arithmetic(said, plan, config)
    _check_rdp(said, plan)
    _check_target(said, config, plan)
    prv = _check_epsilon(said, plan)
    facts = audited_facts(folder)
    _check_curve(facts, plan)
    _check_card(folder, said, config)
    audit_shown = _check_page(folder, facts)
    checkpoint = newest_step(folder.checkpoints) or 0
    return Verified(said, prv, checkpoint, audit_shown, _drawn_by_these(said))


def expect_hash(path: Path, expected: str) -> None:
    """Refuse a file that is not the one whose sha256 a statement gives.

    Raises:
        DpmixError: another file, or none that can be read.
    """
    found = sha256(bytes_of(path)).hexdigest()
    if found != expected:
        raise _broken(f"'{path.name}' has sha256 {found[:16]}..., stated {expected[:16]}...")


def bytes_of(path: Path) -> bytes:
    """What a run's file holds.

    Raises:
        DpmixError: it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DpmixError(
            f"cannot read '{path}' ({error.strerror}); expected the run's file beside its "
            "statement: restore it"
        ) from None


def _check_card(folder: RunFolder, said: Statement, config: Config) -> None:
    """The card is a function of settings, statement and metrics: of this version, word for word."""
    card = bytes_of(folder.card).decode(errors="replace")
    if said.guarantee not in card:
        raise _broken(f"'{folder.card.name}' does not hold the statement's guarantee")
    if said.versions.get("dpmix") != version(DISTRIBUTION):
        return
    statement, numbers = (json.loads(bytes_of(path)) for path in (folder.privacy, folder.metrics))
    try:
        expected = model_card(config, statement, numbers)
    except (UndefinedError, TypeError, ValueError) as error:
        raise _broken(f"'{folder.metrics.name}' is not what a run writes ({error})") from None
    if card != expected:
        raise _broken(
            f"'{folder.card.name}' is not the card of these settings, statement and metrics"
        )


def _drawn_by_these(said: Statement) -> bool:
    """Whether what writes card and page is what wrote them: other versions may round otherwise."""
    here = versions()
    return all(said.versions.get(name) == here[name] for name in _DRAWN_BY)


def _check_page(folder: RunFolder, facts: RunFacts) -> bool | None:
    """The page is a function of settings, statement, metrics and the audit that it shows, if any.

    Returns:
        Whether it shows the audit in the folder; None where there is none.
    """
    audit = facts.audit
    if audit is not None and audit.refuted:
        raise DpmixError(f"'{folder.audit}': {audit_verdict(audit)}")
    page = bytes_of(folder.report).decode(errors="replace")
    if facts.statement.guarantee not in page:
        raise _broken(f"'{folder.report.name}' does not hold the statement's guarantee")
    if _drawn_by_these(facts.statement):
        if page == report_page(facts):
            return None if audit is None else True
        if audit is None or page != report_page(replace(facts, audit=None)):
            raise _broken(
                f"'{folder.report.name}' is not the page of these settings, statement and metrics"
            )
        return False
    return None if audit is None else audit_verdict(audit) in page


def _broken(what: str) -> DpmixError:
    return DpmixError(f"{what}: the run's files do not bear its statement out; do not rely on it")


def _plan_of(said: Statement, config: Config) -> PrivacyPlan:
    spec = config.view_spec(flip=False)
    return PrivacyPlan(
        sampling_rate=said.sampling_rate,
        denominator=said.denominator,
        steps=said.planned_steps,
        noise_multiplier=said.noise_multiplier,
        max_grad_norm=float(said.max_grad_norm),
        delta=said.delta,
        sensitivity_multiplier=spec.sensitivity_multiplier,
        target_epsilon=config.privacy.epsilon,
        n=said.examples,
        prior_releases=tuple(said.spent_before),
        expected_runs=said.expected_runs,
    )


def _check_arithmetic(said: Statement, plan: PrivacyPlan, config: Config) -> None:
    """Every number that follows from others, and every setting that is stated again."""
    privacy = config.privacy
    rate, at_stop = said.sampling_rate, said.epsilon_at_fixed_stop
    stopped = None if at_stop is None else (said.steps, at_stop)
    repeats = (said.repeats.most, float(said.repeats.epsilon)) if said.repeats else None
    sentence = guarantee(
        plan, float(said.epsilon), config.run.seed, stopped=stopped, repeats=repeats
    )
    pairs: list[tuple[str, object, object]] = [
        ("method", said.method, config.views.method),
        ("seeded", said.seeded, config.run.seed is not None),
        ("delta", said.delta, privacy.delta),
        ("max_grad_norm", said.max_grad_norm, privacy.max_grad_norm),
        ("sensitivity", said.sensitivity, plan.max_grad_norm * plan.sensitivity_multiplier),
        ("noise_std", said.noise_std, plan.noise_std),
        ("expected_runs", said.expected_runs, privacy.expected_runs),
        ("accountant", said.accountant.name, plan.accountant),
        ("complete", said.complete, said.steps == said.planned_steps),
        ("steps", said.steps, min(said.steps, said.planned_steps)),
        ("guarantee", said.guarantee, sentence),
        ("repeats", repeats, repeats if privacy.allow_repeats else None),
    ]
    if said.examples is not None:
        pairs.append(("sampling_rate", rate, said.denominator / said.examples))
    pairs += [
        ("denominator", said.denominator, privacy.denominator or privacy.expected_batch_size),
        ("sampling_rate", rate, privacy.sampling_rate or rate),
        ("examples", said.examples is None, privacy.sampling_rate is not None),
        ("planned_steps", said.planned_steps, privacy.steps or _steps_of(privacy.epochs, rate)),
        ("spent_before", len(said.spent_before), len(privacy.spent)),
        ("mechanism", said.mechanism, MECHANISM),
        ("assumptions", said.assumptions, assumptions(
            config, plan, tuple(said.resumed_at), said.processes, repeats[0] if repeats else 1)),
        ("resumed_at", said.resumed_at, sorted(
            step for step in said.resumed_at if 0 <= step <= said.planned_steps)),
    ]  # fmt: skip
    backbone = said.public_inputs.backbone
    if config.input is not None:
        stated = backbone and backbone.weights_sha256
        pairs.append(("backbone's weights_sha256", stated, config.input.backbone_sha256))
    for name, first, second in pairs:
        if not _equal(first, second):
            raise _broken(f"the statement's {name} is {first}, but {second} follows")


def _steps_of(epochs: float | None, rate: float) -> int:
    # Of a rate near 0 there would be no end of them.
    return max(1, round(min((epochs or 0) / rate, 1e18)))


def _equal(stated: object, follows: object) -> bool:
    if isinstance(stated, int | float) and isinstance(follows, int | float):
        return math.isclose(stated, follows, rel_tol=_SAME)
    return stated == follows


def _check_rdp(said: Statement, plan: PrivacyPlan) -> None:
    """Renyi DP comes first: it is cheap, and tells too little noise before PLD meets it."""
    _refuse_other(
        "the statement's epsilon_rdp", said.epsilon_rdp, plan.epsilon_rdp_after(said.steps)
    )
    if not plan.epsilon_rdp <= _MOST_EPSILON:
        raise DpmixError(
            f"epsilon_rdp of the whole run is {plan.epsilon_rdp:.6g}, which promises nothing; "
            f"verify computes up to {_MOST_EPSILON:g}: do not rely on this run"
        )


def _refuse_other(
    name: str, stated: float | str, follows: float, most: float = sys.float_info.max
) -> None:
    """Refuse an epsilon that is less than what follows, or above `most`."""
    epsilon = float(stated)
    if not follows * (1 - _SAME) <= epsilon <= most:
        raise _broken(f"{name} is {epsilon:.6g}, but {follows:.6g} follows")


def _check_target(said: Statement, config: Config, plan: PrivacyPlan) -> None:
    """Sigma is the least for the epsilon that the settings ask for, as near as calibration gets."""
    whole, target = plan.epsilon, config.privacy.epsilon
    if not target * (1 - _CALIBRATED) <= whole <= target * (1 + _SAME):
        raise _broken(
            f"the settings ask for epsilon {target:g}, but the statement's sigma, q and "
            f"{said.planned_steps} steps give {whole:.6g}"
        )


def _check_epsilon(said: Statement, plan: PrivacyPlan) -> tuple[float, float, float]:
    epsilon, at_stop = float(said.epsilon), said.epsilon_at_fixed_stop
    _refuse_other("the statement's epsilon", epsilon, plan.epsilon)
    if at_stop is not None:
        _refuse_other(
            "the statement's epsilon_at_fixed_stop", at_stop, plan.epsilon_after(said.steps)
        )
        _check_by_prv("epsilon_at_fixed_stop", at_stop, plan, said.steps)
    if said.repeats:
        follows = epsilon_of_copies(plan, said.repeats.most, plan.steps)
        _refuse_other("the statement's epsilon of repeats", float(said.repeats.epsilon), follows)
    return _check_by_prv("epsilon", epsilon, plan, plan.steps)


def _check_by_prv(
    name: str, stated: float, plan: PrivacyPlan, steps: int
) -> tuple[float, float, float]:
    given = (plan.sampling_rate, plan.noise_multiplier, steps, plan.delta)
    low, estimate, high = epsilon_prv(*given, plan.prior_releases)
    # The best of several runs has more than one of them, which is all that PRV can say.
    most = math.inf if plan.expected_runs is not None else high * (1 + _ROUNDED_UP)
    if not low <= stated <= most:
        raise _broken(
            f"the statement's {name} is {stated:.6g}, but by the PRV accountant it lies between "
            f"{low:.6g} and {high:.6g}"
        )
    return low, estimate, high


def _check_curve(facts: RunFacts, plan: PrivacyPlan) -> None:
    """Every epsilon against steps, which whoever has an earlier model of the run goes by."""
    curve = facts.metrics.curve
    steps = [point.step for point in curve]
    if steps != sorted({*steps}) or steps[-1:] != [facts.statement.steps]:
        raise _broken(f"the curve in 'metrics.json' does not go up to step {facts.statement.steps}")
    for point in curve:
        name = f"the curve's epsilon at step {point.step} in 'metrics.json'"
        follows = plan.epsilon_after(point.step)
        _refuse_other(name, point.epsilon, follows, follows * (1 + _ROUNDED_UP))
