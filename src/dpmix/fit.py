"""`fit`: settings in, a trained private model and its folder out."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import nn

from dpmix.assembly import Assembly, assemble
from dpmix.atomic_files import text_writer
from dpmix.config import Config
from dpmix.data.options import Progress as Counted
from dpmix.models import parameter_count
from dpmix.models.classifier import trained_state
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reporting.metrics import metrics
from dpmix.reporting.model_card import model_card
from dpmix.reporting.statement import privacy_statement
from dpmix.training.ema import Ema
from dpmix.training.evaluate import Evaluation, evaluate, evaluate_features
from dpmix.training.json_text import to_json
from dpmix.training.loop import History, Progress, train
from dpmix.training.run_folder import RunFolder
from dpmix.training.weights import weight_bytes
from dpmix.views.view_source import ViewSource

EVALUATIONS = 10


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        model: holding the averaged weights, in eval mode.
        plan: the guarantee that ran.
        evaluation: of `model` on the test split.
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
    report: Callable[[Progress], None] = lambda _: None,
    decoding: Counted | None = None,
    **settings: Any,
) -> RunResult:
    """Train a private image classifier and write its run folder.

    Args:
        recipe: YAML file of settings (`dpmix.config`).
        report: called after each step.
        decoding: told (done, total) while images are decoded.
        **settings: single settings by name, such as ``data="mnist5k", epsilon=3``; they override
            the recipe.

    Raises:
        DpmixError: any setting or data that can't be meant; nothing has been written then.
    """
    return run(assemble(Config.load(recipe, **settings), decoding), report)


def run(
    parts: Assembly,
    report: Callable[[Progress], None] = lambda _: None,
    pretraining: Counted = lambda done, total: None,
    embedding: Counted = lambda done, total: None,
) -> RunResult:
    """Train an assembled run and write its folder, as `fit` does.

    `pretraining` is told (steps done, steps in all) while the run trains on its pool, `embedding`
    (views done, views in all) while it fills its feature cache.
    """
    # A trainer checks the model, which takes seconds: once. A head is checked before its views are
    # embedded, since its trainer needs them.
    trainer = parts.trainer(parts.views) if parts.cache is None else None
    if trainer is None:
        parts.check()
    folder = RunFolder(parts.folder)
    folder.create(parts.config.run.overwrite)

    try:
        views, evaluation = _embedded(parts, embedding)
        trainer = trainer or parts.trainer(views)
        if parts.pretraining is not None:
            parts.pretraining.run(parts.model, pretraining)
        ema = Ema(parts.model, parts.config.optimizer.ema_decay)
        history = train(
            trainer,
            schedule=parts.schedule,
            ema=ema,
            evaluate=evaluation,
            eval_every=parts.config.run.eval_every or max(1, parts.plan.steps // EVALUATIONS),
            folder=folder,
            save=lambda so_far: _save(parts, folder, ema, so_far),
            report=report,
        )
    finally:
        folder.close()
    assert history.last is not None
    parts.model.load_state_dict(ema.weights())
    return RunResult(parts.model.eval(), parts.plan, history.last, folder.root, parts.config)


def _embedded(
    parts: Assembly, report: Counted
) -> tuple[ViewSource, Callable[[nn.Module], Evaluation]]:
    """What a step draws views from, and how the model is judged: in features where cached."""
    test = parts.splits.test
    if parts.cache is None:

        def on_images(model: nn.Module) -> Evaluation:
            return evaluate(model, test, parts.views.normalization, parts.device)

        return parts.views, on_images
    cached = parts.cache.embed_train(parts.splits.train, parts.views, report)
    features = parts.cache.embed_test(test, report)

    def on_features(model: nn.Module) -> Evaluation:
        return evaluate_features(parts.trained, features, test, parts.device)

    return cached, on_features


def _save(parts: Assembly, folder: RunFolder, ema: Ema, history: History) -> None:
    """Write what may be released; true of this step whether or not the run goes on."""
    weights = weight_bytes(trained_state(parts.model, ema.weights()))
    statement = privacy_statement(
        parts.config,
        parts.plan,
        pool=parts.pool_facts,
        backbone=parts.backbone,
        steps=history.points[-1]["step"],
        weights_sha256=sha256(weights).hexdigest(),
    )
    numbers = metrics(parts.config, parts.plan, history, parameter_count(parts.model))
    folder.save(
        config=text_writer(parts.config.to_yaml()),
        privacy=text_writer(to_json(statement)),
        model=lambda aside: aside.write_bytes(weights),
        metrics=text_writer(to_json(numbers)),
        card=text_writer(model_card(parts.config, statement, numbers)),
    )
