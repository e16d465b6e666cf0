"""Audits of a run as its settings make it: the same data, model, method, plan and trainer."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from dpmix.assembly import Assembly
from dpmix.audit.canary_trainer import CanaryTrainer
from dpmix.audit.gradient_audit import GradientAudit, audit_gradients
from dpmix.audit.image_canaries import ImageAudit, ImageKind, audit_images
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError
from dpmix.training.evaluate import logits
from dpmix.views.view_source import ViewSource

Report = Callable[[int, int], None]


def refuse_unfit(parts: Assembly) -> None:
    """Refuse settings under which an audit would say nothing.

    Raises:
        DpmixError: a run without privacy, with a seed, of several processes, or with a pool that it
            trains on first.
    """
    if not parts.plan.private:
        raise DpmixError("epsilon is infinite: there is no claim to audit; give a finite epsilon")
    if parts.config.run.seed is not None:
        raise DpmixError("an audit needs coins of its own in every run; leave out seed")
    if parts.ranks.size > 1:
        raise DpmixError("an audit runs in one process; leave out torchrun")
    if parts.pretraining is not None:
        raise DpmixError("an audit is of the private steps; leave out pool_role pretrain")


def audit_by_gradients(
    parts: Assembly, views: ViewSource, canaries: int | None, runs: int, confidence: float,
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

    trained = sum(p.numel() for p in parts.trained.parameters() if p.requires_grad)
    return audit_gradients(
        trainer, canaries=canaries or min(10_000, trained), runs=runs, confidence=confidence,
        rng=np.random.default_rng(), report=report,
    )  # fmt: skip


def audit_by_images(
    parts: Assembly, kind: ImageKind, canaries: int | None, runs: int, confidence: float,
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
    if parts.cache is not None:
        raise DpmixError(
            "image canaries are not in a cache of features; give --fresh-views, or audit by "
            "gradient canaries"
        )
    fresh, steps = _Fresh(parts), parts.plan.steps
    trained = 0

    def train(
        data: ImageSource,
    ) -> Callable[[ImageSource], Float64[np.ndarray, " M"]]:
        nonlocal trained
        fresh.start()
        before = copy.deepcopy(parts.model)
        with_canaries = replace(parts, splits=replace(parts.splits, train=data))
        subject = with_canaries.trainer(parts.views)
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

    def __init__(self, parts: Assembly) -> None:
        self._parts = parts
        self._states = [copy.deepcopy(one.state_dict()) for one in self._held()]

    def start(self) -> None:
        """Put them back."""
        for one, state in zip(self._held(), self._states, strict=True):
            one.load_state_dict(copy.deepcopy(state))

    def _held(self) -> tuple[Any, ...]:
        return self._parts.model, self._parts.optimizer, self._parts.schedule
