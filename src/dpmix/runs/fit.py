"""`fit`: settings in, a trained private model and its folder out."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dpmix.data.image import Progress as Counted
from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reports.summary import divergence
from dpmix.runs.build import build_run
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.config import Config
from dpmix.runs.parts import Run
from dpmix.runs.record import RunRecord
from dpmix.runs.resume import rebuild_run
from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation, evaluate, evaluate_features
from dpmix.training.loop import History, Progress, gentle_interrupts, train
from dpmix.training.trainer import PrivateTrainer
from dpmix.views.builder import ViewSource

EVALUATIONS = 10


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        model: holding the averaged weights, in eval mode.
        plan: the guarantee that ran.
        evaluation: of `model` on the test split, or on the validation images.
        folder: where everything is.
        config: the settings, defaults made explicit.
    """

    model: nn.Module
    plan: PrivacyPlan
    evaluation: Evaluation
    folder: Path
    config: Config


def fit(
    recipe: Path | None = None,
    *,
    resume: Path | None = None,
    report: Callable[[Progress], None] = lambda _: None,
    decoding: Counted | None = None,
    **settings: Any,
) -> RunResult:
    """Train a private image classifier and write its run folder.

    Args:
        recipe: YAML file of settings (`dpmix.runs.config`).
        resume: the folder of a stopped run to go on with, instead of a recipe.
        report: called after each step.
        decoding: told (done, total) while images are decoded.
        **settings: single settings by name, such as ``data="mnist5k", epsilon=3``; they override
            the recipe.

    Raises:
        DpmixError: any setting or data that can't be meant; nothing has been written then.
    """
    if resume is not None:
        if recipe is not None:
            raise DpmixError("a recipe and a run to resume were both given; give one")
        parts, checkpoint = rebuild_run(resume, decoding, **settings)
    else:
        parts = build_run(Config.load(recipe, **settings).by_itself(), decoding)
        checkpoint = None
    result = run(parts, report, checkpoint=checkpoint)
    if result.evaluation.diverged:
        warnings.warn(divergence(result.evaluation.loss, parts.splits.judged_on), stacklevel=2)
    return result


def run(
    parts: Run,
    report: Callable[[Progress], None] = lambda _: None,
    pretraining: Counted = lambda done, total: None,
    embedding: Counted = lambda done, total: None,
    checkpoint: Checkpoint | None = None,
) -> RunResult:
    """Train an assembled run and write its folder, as `fit` does.

    Args:
        parts: of the run; of several processes, each has its own and rank 0 alone writes.
        report: called after each step.
        pretraining: told (steps done, steps in all) while the run trains on its pool.
        embedding: told (views done, views in all) while it fills its feature cache.
        checkpoint: what `rebuild_run` returned beside `parts`, to go on from.
    """
    # A trainer checks the model, which takes seconds: once. A head is checked before its views are
    # embedded, since its trainer needs them.
    trainer = parts.trainer(parts.views) if parts.cache is None else None
    if trainer is None:
        parts.check()
    ranks, record = parts.ranks, RunRecord(parts, checkpoint)
    ranks.require_equal("run", parts.fixed())
    ranks.require_equal("checkpoint", checkpoint and (checkpoint.run_id, checkpoint.step))
    with record.open() if ranks.is_main else nullcontext():
        views, evaluation = _embedded(parts, embedding)
        trainer = trainer or parts.trainer(views)
        ema, history = _ready(parts, trainer, checkpoint, pretraining)
        with gentle_interrupts() as interrupted:
            train(
                trainer,
                schedule=parts.schedule,
                ema=ema,
                evaluate=evaluation if ranks.is_main else lambda _: None,
                eval_every=parts.config.run.eval_every or max(1, parts.plan.steps // EVALUATIONS),
                history=history,
                log=record.log if ranks.is_main else lambda _: None,
                keep=lambda step, so_far, new: (
                    record.keep(step, ema, so_far, new, interrupted()) if ranks.is_main else None
                ),
                save=lambda so_far: (
                    record.save(ema, so_far, str(trainer.engine)) if ranks.is_main else None
                ),
                report=report,
            )
        last = ranks.broadcast_object(history.last)
    parts.model.load_state_dict(ema.weights())
    return RunResult(parts.model.eval(), parts.plan, last, parts.folder, parts.config)


def _ready(
    parts: Run, trainer: PrivateTrainer, checkpoint: Checkpoint | None, pretraining: Counted
) -> tuple[Ema, History]:
    """Where the first step begins, or where the last checkpoint was."""
    started = checkpoint is not None and checkpoint.step > 0
    if parts.pretraining is not None and not started:
        if parts.ranks.is_main:
            parts.pretraining.run(parts.model, pretraining)
        trainer.broadcast_weights()
    ema = Ema(parts.model, parts.config.optimizer.ema_decay)
    if checkpoint is None or not started:
        return ema, History()
    ema.restore(checkpoint.ema)
    trainer.resume({"plan": asdict(checkpoint.plan), "steps_done": checkpoint.step})
    return ema, checkpoint.history


def embedded_views(parts: Run, report: Counted) -> ViewSource:
    """What a step draws views from: the images, or where they are cached their features.

    Args:
        parts: of the run.
        report: told (views done, views in all) while they are embedded.
    """
    if parts.cache is None:
        return parts.views
    return parts.cache.embed_train(parts.examples, parts.views, report)


def _embedded(parts: Run, report: Counted) -> tuple[ViewSource, Callable[[nn.Module], Evaluation]]:
    """What a step draws views from, and how the model is judged: in features where cached."""
    test = parts.splits.test
    if parts.cache is None:

        def on_images(model: nn.Module) -> Evaluation:
            return evaluate(model, test, parts.views.normalization, parts.device)

        return parts.views, on_images
    cached = embedded_views(parts, report)
    features = parts.cache.embed_test(test, report) if parts.ranks.is_main else None

    def on_features(model: nn.Module) -> Evaluation:
        assert features is not None
        return evaluate_features(parts.trained, features, test, parts.device)

    return cached, on_features
