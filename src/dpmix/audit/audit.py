"""Audits of a run as its settings make it: the same data, model, method, plan and trainer."""

import contextlib
import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import nn

from dpmix.audit.bounds import best_one_run_epsilon, best_two_world_epsilon
from dpmix.audit.canaries import CanaryRun, Gained, audit_images
from dpmix.audit.checks import ExampleChecks, ReleaseChecks
from dpmix.audit.invariants import DrawChecks, NoiseChecks, exactly
from dpmix.clipping.accumulator import sum_dtype
from dpmix.clipping.types import trainable
from dpmix.data.named import public_name
from dpmix.data.source import ImageSource, unit_count, unit_labels
from dpmix.errors import DpmixError, to_install
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.audit_report import AuditFindings, AuditReport, Finding, Kind, read_audit
from dpmix.reports.facts import RunFacts
from dpmix.reports.prv import epsilon_prv
from dpmix.runs.build import Run
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import read_facts
from dpmix.runs.settings import LEAVES, places
from dpmix.training.evaluate import logits
from dpmix.training.trainer import PrivateTrainer
from dpmix.views.labels import soft_labels

Progress = Callable[[int, int], None]
_MOST_GRADIENTS, _MOST_IMAGES = 10_000, 1000
# As near to the least sigma as calibration ends, twice.
_CALIBRATED = 1e-3


def audit_gradients(
    make: Callable[..., PrivateTrainer],
    *,
    plan: PrivacyPlan,
    examples: int,
    parameters: int,
    canaries: int,
    runs: int,
    confidence: float,
    rng: np.random.Generator,
    progress: Progress = lambda done, total: None,
) -> AuditFindings:
    """Train `runs` times with gradient canaries, guess which were in, and bound epsilon.

    Two bounds are computed, which hold together at the confidence: one assumes nothing about the
    mechanism, the other takes the noise of the canaries for independent. The first run is also
    tested step by step.

    Args:
        make: builds a new trainer, as in `CanaryRun`.
        plan: the plan that every trainer follows.
        examples: number of training images, or persons.
        parameters: number of trained parameters.
        canaries: number of canaries in a run, M; at most one for each trained parameter.
        runs: number of full training runs.
        confidence: probability that the bounds hold together.
        rng: draws which canaries are included, and their places.
        progress: called with (steps done, steps in all).

    Raises:
        DpmixError: more canaries than parameters, or as `CanaryRun` raises.
    """
    if canaries > parameters:
        raise DpmixError(
            f"{canaries:,} canaries were asked for but the model has {parameters:,} trained "
            "parameters, one for each; give fewer canaries"
        )
    scores: list[Float64[np.ndarray, " M"]] = []
    draws: list[Bool[np.ndarray, " M"]] = []
    found: tuple[Finding, ...] = ()
    for number in range(runs):
        included = rng.random(canaries) < 0.5
        run = CanaryRun(make, plan, examples, included, rng.permutation(parameters)[:canaries])
        # Another stream, so that the checks do not move the canaries.
        checks = StepChecks(run, rng.spawn(1)[0]) if number == 0 else None
        score = np.zeros(canaries)
        for step in range(plan.steps):
            run.step()
            if checks:
                checks.add()
            score += run.scores()
            progress(number * plan.steps + step + 1, runs * plan.steps)
        if checks:
            found = checks.found()
        scores.append(score)
        draws.append(included)
    each = 1 - (1 - confidence) / 2
    score, included = np.concatenate(scores), np.concatenate(draws)
    return AuditFindings(
        kind="gradient",
        claimed=plan.epsilon,
        delta=plan.delta,
        one_run=best_one_run_epsilon(score, included, plan.delta, each),
        two_worlds=best_two_world_epsilon(score[~included], score[included], plan.delta, each),
        confidence=confidence,
        canaries=len(score),
        runs=runs,
        invariants=found,
    )


class StepChecks:
    """Tests every step of a run, from its first one on; `rng` chooses what is looked at."""

    def __init__(self, run: CanaryRun, rng: np.random.Generator) -> None:
        self._run, trainer, plan = run, run.trainer, run.plan
        sizes = [parameter.numel() for parameter in trainer.parameters]
        rounding = torch.finfo(sum_dtype(trainer.device)).eps
        self._noise = NoiseChecks(plan, sizes, rounding, rng)
        labels = unit_labels(trainer.data, plan.unit).numpy()
        self._draws = DrawChecks(labels, run.members, plan.sampling_rate)
        self._releases = ReleaseChecks(run)
        self._examples = ExampleChecks(run, rng)
        self._examples.clip(compare=True)

    def add(self) -> None:
        """Take the step that was just done."""
        used, noise = torch.cat(self._run.used), self._run.noise
        self._noise.add(noise.noise.numpy(), noise.given.numpy())
        self._draws.add(used.numpy())
        self._releases.add()
        self._examples.add(used)

    def found(self) -> tuple[Finding, ...]:
        """All invariants, once all steps are done."""
        self._examples.clip(compare=False)
        found = (
            self._noise.size(),
            self._noise.independence(),
            self._draws.found(),
            self._examples.clipping(),
            self._examples.views(),
            *self._releases.found(),
        )
        plan, beyond = self._run.plan, set[str]()
        with contextlib.suppress(DpmixError):
            self._run.step()
            beyond.add("a step beyond the plan's was taken")
        counted = f"{plan.steps} steps, and another one was refused"
        return (*found, exactly("number of steps", counted, beyond), epsilon_is_stated(plan))


def epsilon_is_stated(plan: PrivacyPlan) -> Finding:
    """Compare the claim with an accountant that shares no code with the plan's."""
    bounds = epsilon_prv(
        plan.sampling_rate, plan.noise_multiplier, plan.steps, plan.delta, plan.prior_releases
    )
    name = "claimed epsilon"
    if bounds is None:
        missing = f"left out: prv-accountant is missing; {to_install('verify')}"
        return Finding(name=name, holds=True, found=missing, tested=False)
    shown = math.floor(1000 * bounds[0]) / 1000
    found = f"another accountant gives {shown:.3f} or more"
    return Finding(name=name, holds=plan.epsilon >= bounds[0], found=found)


def refuse_unfit(run: Run) -> None:
    """Refuse settings under which an audit would say nothing.

    Raises:
        DpmixError: a run without privacy, with a seed, of several processes, with a pool that it
            trains on first, or with a head that is trained first.
    """
    if not run.plan.private:
        raise DpmixError("epsilon is infinite: there is no claim to audit; give a finite epsilon")
    if run.config.run.seed is not None:
        raise DpmixError("an audit needs fresh random draws in every run; leave out seed")
    if run.ranks.size > 1:
        raise DpmixError("an audit runs in one process; leave out torchrun")
    if run.config.model.head_steps is not None:
        raise DpmixError(
            "an audit follows one set of weights, and head-then-all trains two; audit --trainable "
            "head and --trainable all, which take the same steps"
        )
    if run.pretraining is not None:
        raise DpmixError("an audit is of the private steps; leave out pool_role pretrain")
    privacy = run.config.privacy
    if privacy.balance == "sampling":
        raise DpmixError(
            "balance is 'sampling', and an audit counts draws at one rate; audit --balance weights"
        )
    if privacy.spend is not None:
        raise DpmixError(
            "class_prevalence is 'private', which an audit would count again; give the numbers of "
            "the run as --class-prevalence FILE"
        )


def audit_run(
    run: Run, kind: Kind, canaries: int | None, runs: int, confidence: float, progress: Progress
) -> AuditFindings:
    """Audit a run's own trainer, as `audit_gradients` or `audit_images` does.

    The run is fit for it (`refuse_unfit`) and its cached views are embedded. `canaries` None: one
    for each trained parameter, at most 10,000, or 1,000 images.

    Raises:
        DpmixError: as `audit_gradients` raises; or image canaries and a cache of features.
    """
    restart, rng = _restart(run), np.random.default_rng()
    if kind != "gradient":
        run.inputs.require_images()
        return audit_images(
            _trained_on(run, restart, lambda done: progress(done, runs * run.plan.steps)),
            data=run.splits.train, plan=run.plan, canaries=canaries or _MOST_IMAGES, runs=runs,
            confidence=confidence, rng=rng,
        )  # fmt: skip

    def make(**recorded: Any) -> PrivateTrainer:
        restart()
        return run.trainer(**recorded)

    trained = sum(p.numel() for p in trainable(run.inputs.trained).values())
    return audit_gradients(
        make, plan=run.plan, examples=unit_count(run.examples, run.plan.unit),
        parameters=trained,
        canaries=canaries or min(_MOST_GRADIENTS, trained), runs=runs, confidence=confidence,
        rng=rng, progress=progress,
    )  # fmt: skip


def _trained_on(
    run: Run, restart: Callable[[], None], stepped: Callable[[int], None]
) -> Callable[[ImageSource], Gained]:
    done = count(1)

    def train(data: ImageSource) -> Gained:
        restart()
        before = copy.deepcopy(run.model)
        trainer = replace(run, splits=replace(run.splits, train=data)).trainer()
        for _ in range(run.plan.steps):
            trainer.step()
            run.schedule.step()
            stepped(next(done))
        return lambda images: losses(before, images) - losses(run.model, images)

    def losses(model: nn.Module, images: ImageSource) -> Float64[np.ndarray, " M"]:
        found = logits(model, images, run.views.normalization, run.device)
        values = run.loss(found, soft_labels(images.labels, len(images.class_names)))
        # A model that came to nothing tells nobody apart.
        return values.double().nan_to_num(0.0).numpy()

    return train


def _restart(run: Run) -> Callable[[], None]:
    held: tuple[Any, ...] = (run.model, run.optimizer, run.schedule)
    states = [copy.deepcopy(one.state_dict()) for one in held]

    def restart() -> None:
        for one, state in zip(held, states, strict=True):
            one.load_state_dict(copy.deepcopy(state))

    return restart


def audited_facts(folder: RunFolder) -> RunFacts:
    """The facts of a run with the audit in its folder, if there is one; raises as `audit_of`."""
    facts = read_facts(folder)
    return replace(facts, audit=audit_of(folder, facts))


def audit_of(folder: RunFolder, facts: RunFacts) -> AuditReport | None:
    """The audit in a run's folder, if there is one.

    It must be an audit of the run's own settings: the same plan, method, model and kind of data.
    Where things lie and how they are computed may differ: the audit may have run elsewhere.

    Raises:
        DpmixError: as `read_audit` raises, or an audit of something else.
    """
    if not folder.audit.exists():
        return None
    audit, stated = read_audit(folder.audit), facts.statement
    theirs, own = audit.settings, facts.settings
    pairs = [
        ("data", theirs.get("data", {}).get("data"), public_name(own["data"]["data"])),
        ("input", theirs.get("input"), own["input"]),
    ]
    for name, section in LEAVES.items():
        if section not in ("run", "input") and name not in places("path") | places("resume"):
            pairs.append((name, theirs.get(section, {}).get(name), own[section][name]))
    plan = {
        "sampling_rate": stated.sampling_rate, "denominator": stated.denominator,
        "steps": stated.planned_steps, "noise_multiplier": stated.noise_multiplier,
        "max_grad_norm": stated.max_grad_norm, "delta": stated.delta, "n": stated.examples,
        "prior_releases": stated.spent_before,
    }  # fmt: skip
    pairs += [(name, audit.plan.get(name), value) for name, value in plan.items()]
    for name, audited, value in pairs:
        # Calibrated elsewhere, sigma ends near enough.
        near = name == "noise_multiplier" and isinstance(audited, float)
        if audited != value and not (near and math.isclose(audited, value, rel_tol=_CALIBRATED)):
            raise DpmixError(
                f"'{folder.audit}' is an audit of other settings: its {name} is {audited}, the "
                f"run's {value}; move it away, or audit this run: dpmix audit --config "
                f"{folder.config} --report {folder.audit}"
            )
    return audit
