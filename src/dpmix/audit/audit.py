"""Audits of a run as its settings make it: the same data, model, method, plan and trainer."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import nn

from dpmix.audit.bounds import best_one_run_epsilon, best_two_world_epsilon
from dpmix.audit.canaries import CanaryTrainer, ImageAudit, ImageKind, audit_images
from dpmix.audit.invariants import Invariant
from dpmix.audit.witness import Witness
from dpmix.data.named import public_name
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.audit_report import AuditReport, read_audit
from dpmix.reports.facts import RunFacts
from dpmix.reports.statement import Statement
from dpmix.runs.build import Run
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import read_facts
from dpmix.runs.settings import LEAVES, places
from dpmix.training.evaluate import logits
from dpmix.views.builder import ViewSource

# Whether an audit is of a run's own settings: the same plan, method, model and kind of data.
#
# Where things lie and how they are computed may differ: the audit may have run on another machine.


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


def audited_facts(folder: RunFolder) -> RunFacts:
    """The facts of a run, with the audit in its folder if there is one.

    Raises:
        DpmixError: as `read_facts` and `audit_of` raise.
    """
    facts = read_facts(folder)
    return replace(facts, audit=audit_of(folder, Config.load(folder.config), facts.statement))


def _settings(audit: AuditReport, config: Config) -> list[tuple[str, Any, Any]]:
    theirs, own = audit.settings, config.model_dump(mode="json", exclude={"run"})
    compared = [
        (name, theirs.get(section, {}).get(name), own[section][name])
        for name, section in LEAVES.items()
        # What was spent is compared as numbers, in the plan.
        if section in own and name not in places("path") | places("resume")
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
        "prior_releases": statement.spent_before,
    }
    return [(name, audit.plan.get(name), own) for name, own in pairs.items()]


def _near(audited: object, own: float) -> bool:
    """Calibrated elsewhere, sigma ends near enough."""
    return isinstance(audited, float) and math.isclose(audited, own, rel_tol=_CALIBRATED)


# Audit of a run's mechanism by canaries in gradient space: two lower bounds on its epsilon.


@dataclass(frozen=True)
class GradientAudit:
    """What an audit found.

    Attributes:
        claimed: epsilon of the plan at `delta`.
        delta: of the plan.
        one_run: lower bound that assumes nothing of the mechanism.
        two_worlds: lower bound that takes the canaries' noise for independent.
        confidence: of both bounds together.
        canaries: guessed at, over all runs.
        runs: trained.
        invariants: tested in the first of them.
    """

    claimed: float
    delta: float
    one_run: float
    two_worlds: float
    confidence: float
    canaries: int
    runs: int
    invariants: tuple[Invariant, ...]

    @property
    def lower_bound(self) -> float:
        """The larger of the two bounds."""
        return max(self.one_run, self.two_worlds)

    @property
    def violated(self) -> bool:
        """Whether the claim is refuted, at the confidence, or an invariant does not hold."""
        return self.lower_bound > self.claimed or not all(one.holds for one in self.invariants)


def audit_gradients(
    trainer: Callable[[], CanaryTrainer],
    *,
    canaries: int,
    runs: int,
    confidence: float,
    rng: np.random.Generator,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> GradientAudit:
    """Train `runs` times with canaries planted, guess which were in, and bound epsilon.

    Args:
        trainer: makes a fresh one, of one and the same plan.
        canaries: M of a run, at most one for each trained parameter.
        runs: of the whole training; each adds M canaries.
        confidence: of each bound.
        rng: of the random draws that include canaries and of their places.
        report: told (steps done, steps in all).

    Raises:
        DpmixError: more canaries than parameters, or as `CanaryTrainer.plant` raises.
    """
    scores: list[Float64[np.ndarray, " M"]] = []
    draws: list[Bool[np.ndarray, " M"]] = []
    found: tuple[Invariant, ...] = ()
    for run in range(runs):
        subject = trainer()
        parameters = sum(p.numel() for p in subject.parameters)
        if canaries > parameters:
            raise DpmixError(
                f"{canaries:,} canaries were asked for but the model has {parameters:,} trained "
                "parameters, one for each; give fewer canaries"
            )
        included = rng.random(canaries) < 0.5
        subject.plant(included, rng.permutation(parameters)[:canaries])
        # A stream that is its own, so that looking does not move the canaries.
        witness = Witness(subject, rng.spawn(1)[0]) if run == 0 else None
        score = np.zeros(canaries)
        for step in range(subject.plan.steps):
            subject.step()
            if witness:
                witness.hear()
            score += log_likelihood_ratio(subject.heard, subject.plan)
            report(run * subject.plan.steps + step + 1, runs * subject.plan.steps)
        if witness:
            found = witness.found()
        scores.append(score)
        draws.append(included)
    each = 1 - (1 - confidence) / 2  # both hold together, at the confidence
    plan, score, included = subject.plan, np.concatenate(scores), np.concatenate(draws)
    return GradientAudit(
        claimed=plan.epsilon,
        delta=plan.delta,
        one_run=best_one_run_epsilon(score, included, plan.delta, each),
        two_worlds=best_two_world_epsilon(score[~included], score[included], plan.delta, each),
        confidence=confidence,
        canaries=len(score),
        runs=runs,
        invariants=found,
    )


def log_likelihood_ratio(
    heard: Float64[np.ndarray, " M"], plan: PrivacyPlan
) -> Float64[np.ndarray, " M"]:
    """Of "in" against "out", given what one step released: the best statistic there is."""
    q, sigma = plan.sampling_rate, plan.noise_multiplier
    shift = (2 * heard - 1) / (2 * sigma**2)
    if q == 1:
        return shift
    ratio: Float64[np.ndarray, " M"] = np.logaddexp(math.log1p(-q), math.log(q) + shift)
    return ratio


Report = Callable[[int, int], None]


def refuse_unfit(parts: Run) -> None:
    """Refuse settings under which an audit would say nothing.

    Raises:
        DpmixError: a run without privacy, with a seed, of several processes, or with a pool that it
            trains on first.
    """
    if not parts.plan.private:
        raise DpmixError("epsilon is infinite: there is no claim to audit; give a finite epsilon")
    if parts.config.run.seed is not None:
        raise DpmixError("an audit needs random draws of its own in every run; leave out seed")
    if parts.ranks.size > 1:
        raise DpmixError("an audit runs in one process; leave out torchrun")
    if parts.pretraining is not None:
        raise DpmixError("an audit is of the private steps; leave out pool_role pretrain")


def audit_by_gradients(
    parts: Run, views: ViewSource, canaries: int | None, runs: int, confidence: float,
    report: Report,
) -> GradientAudit:  # fmt: skip
    """`audit_gradients` on a run's own trainer.

    Args:
        parts: of the run.
        views: the run's, or what its cache has embedded.
        canaries: M of a run; None: one for each trained parameter, at most 10,000.
        runs: as there, like the next two.
        confidence: as there.
        report: as there.

    Raises:
        DpmixError: as `refuse_unfit` and `audit_gradients` raise.
    """
    refuse_unfit(parts)
    fresh = _Fresh(parts)

    def trainer() -> CanaryTrainer:
        fresh.start()
        return parts.trainer_of(CanaryTrainer, views)

    trained = sum(p.numel() for p in parts.inputs.trained.parameters() if p.requires_grad)
    return audit_gradients(
        trainer, canaries=canaries or min(10_000, trained), runs=runs, confidence=confidence,
        rng=np.random.default_rng(), report=report,
    )  # fmt: skip


def audit_by_images(
    parts: Run, kind: ImageKind, canaries: int | None, runs: int, confidence: float,
    report: Report,
) -> ImageAudit:  # fmt: skip
    """`audit_images` on a run's own trainer.

    Args:
        parts: of the run.
        kind: of the canaries.
        canaries: M of a run; None: 1,000, at most one for each test image.
        runs: as there.
        confidence: as there.
        report: told (steps done, steps in all).

    Raises:
        DpmixError: as `refuse_unfit` and `audit_images` raise; or a cache of features, which holds
            no canaries.
    """
    refuse_unfit(parts)
    parts.inputs.require_images()
    fresh, steps = _Fresh(parts), parts.plan.steps
    trained = 0

    def train(
        data: ImageSource,
    ) -> Callable[[ImageSource], Float64[np.ndarray, " M"]]:
        nonlocal trained
        fresh.start()
        before = copy.deepcopy(parts.model)
        with_canaries = replace(parts, splits=replace(parts.splits, train=data))
        subject = with_canaries.trainer()
        for _ in range(steps):
            subject.step()
            parts.schedule.step()
            trained += 1
            report(trained, runs * steps)
        return lambda images: losses(before, images) - losses(parts.model, images)

    def losses(model: nn.Module, images: ImageSource) -> Float64[np.ndarray, " M"]:
        found = torch.cat(list(logits(model, images, parts.views.normalization, parts.device)))
        values = nn.functional.cross_entropy(found, images.labels, reduction="none")
        # A model that came to nothing tells nobody apart.
        return values.double().nan_to_num(0.0).numpy()

    test = parts.splits.test
    return audit_images(
        train, kind=kind, data=parts.splits.train, held_out=test, claimed=parts.plan.epsilon,
        delta=parts.plan.delta, canaries=canaries or min(1000, len(test)), runs=runs,
        confidence=confidence, rng=np.random.default_rng(),
    )  # fmt: skip


class _Fresh:
    """Model, optimizer and schedule as they are now, to start every run from."""

    def __init__(self, parts: Run) -> None:
        self._parts = parts
        self._states = [copy.deepcopy(one.state_dict()) for one in self._held()]

    def start(self) -> None:
        """Put them back."""
        for one, state in zip(self._held(), self._states, strict=True):
            one.load_state_dict(copy.deepcopy(state))

    def _held(self) -> tuple[Any, ...]:
        return self._parts.model, self._parts.optimizer, self._parts.schedule
