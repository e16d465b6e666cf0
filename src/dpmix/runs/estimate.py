"""What a run will cost, measured on public random images of the right shape."""

import time
import warnings

import numpy as np
import torch

from dpmix.clipping.engine import choose_engine, clipped_gradient_sum, units_at_once
from dpmix.clipping.types import CannotRunError, EngineConfig
from dpmix.models.finetune import train_mode
from dpmix.models.registry import parameter_count
from dpmix.reports.facts import pictures_in_words, views_in_words
from dpmix.reports.summary import pool_rows
from dpmix.runs.build import Run
from dpmix.training.phases import Phase, training_only
from dpmix.training.trainer import PrivateTrainer

REPEATS = 3
LONG_PASS = 0.3  # seconds
LEAST_GAIN = 1.1  # times as fast that another engine must be to be named

Rows = list[tuple[str, str]]


def run_rows(run: Run) -> Rows:
    """Model, data, pictures and feature cache, a line each; without N where that is private."""
    model, backbone, splits, spec = run.config.model, run.backbone, run.splits, run.views.spec
    trained, whole = parameter_count(run.model), sum(p.numel() for p in run.model.parameters())
    if backbone is None:
        rows = [("model", f"{model.model}, {trained:,} parameters")]
    else:
        rows = [
            ("backbone", f"{backbone.name}: {backbone.embedding_size:,} features at "
             f"{backbone.module.input_size} pixels; {backbone.provenance}"),
            ("trained", f"{model.model or model.trainable}: {trained:,} of {whole:,} parameters"),
        ]  # fmt: skip
    if run.backbone_hint:
        rows.append(("hint", run.backbone_hint))
    count = "training images (N is private)" if run.plan.n is None else f"{run.plan.n} training"
    if run.plan.unit == "person":
        count = "training images of persons (their number is private)"
        if run.plan.n is not None:
            count = f"{len(splits.train)} training images of {run.plan.n} persons"
    kinds = f"of {len(splits.train.class_names)} classes"
    if run.config.data.task == "multi-label":
        kinds = f"with {len(splits.train.class_names)} labels each"
    rows += [
        (
            "data",
            f"{splits.name}: {count} and {len(splits.test)} {splits.judged_on} images {kinds}",
        ),
        ("pictures", pictures_in_words(run.config.model_dump(mode="json"), splits, spec)),
    ]  # fmt: skip
    if cached := run.inputs.cache_size(n_is_public=run.plan.n is not None):
        rows.append(("feature cache", cached))
    return rows


def estimate_rows(run: Run) -> Rows:
    """`run_rows`, the cost of a step and an estimate of the time."""
    trainer = run.trainer()
    costs = [(phase.steps, _cost(run, phase)) for phase in trainer.phases]
    whole, seconds = sum(steps * cost for steps, cost in costs), costs[-1][1]
    engine = trainer.phases[-1].engine
    views, spec, optimizer = run.views.spec.views, run.views.spec, run.config.optimizer
    groups = _drawn(run) / spec.examples_per_group
    rows = [*run_rows(run), *pool_rows(run.pool_facts, pool_use(run))]
    if run.pretraining:
        rows.append(("pretraining", f"{run.pretraining.epochs} epochs, {run.pretraining.steps} "
                     "steps; not in the time below"))  # fmt: skip
    padding = "" if spec.method == "none" else f"; crop padding {spec.crop_padding}"
    momentum = "" if optimizer.momentum is None else f", momentum {optimizer.momentum:g}"
    each = f"{seconds:.2f} s a step"
    if len(costs) > 1:
        each = f"{costs[0][1]:.2f} s a step for {costs[0][0]} steps, then {each}"
    time_in_all = f"{_duration(whole)} in all on {run.device}"
    if run.plan.n is not None and (embedding := run.inputs.seconds_to_embed()):  # it would tell N
        time_in_all += f"; about {_duration(embedding)} to embed the views, once"
    return [
        *rows,
        ("views", views_in_words(spec) + padding),
        ("optimizer", f"{optimizer.optimizer}, learning rate {optimizer.learning_rate:g}"
         + momentum),
        ("cost of a step", f"{groups:g} clipped gradients x {views} views = "
         f"{groups * views:g} forward and backward passes"),
        ("engine", f"{engine}: {engine.reason}{_faster(run, trainer, seconds)}"),
        ("time", f"about {each}, {time_in_all}"),
    ]  # fmt: skip


def _cost(run: Run, phase: Phase) -> float:
    with training_only(run.inputs.trained, phase.part):
        return seconds_per_step(run, phase.engine)


def _faster(run: Run, trainer: PrivateTrainer, seconds: float) -> str:
    """What `bookkeeping` would gain, which has to be asked for."""
    if trainer.phases[-1].engine.name not in ("vectorized", "examplewise"):
        return ""
    shape = run.inputs.views.view_shape(run.splits.train.image_shape)
    try:
        with warnings.catch_warnings(action="ignore"):  # nobody asked for it
            other = choose_engine(
                "bookkeeping", trainer.model, trainer.loss, shape, run.views.spec.views
            )
    except CannotRunError:
        return ""
    times = seconds / seconds_per_step(run, other) if other.name == "bookkeeping" else 0.0
    if times < LEAST_GAIN:
        return ""
    return f"; --engine bookkeeping, which adds in float32, is {times:.1f} times as fast"


def pool_use(run: Run) -> str:
    """What the public pool is for, in words."""
    uses = ["start of the head"] if run.config.model.head_start == "pool" else []
    if run.views.spec.method == "mix-diff" or run.pretraining is not None:
        uses.append(f"role {run.config.views.pool_role}")
    return " and ".join(uses) or "to whiten features"


def seconds_per_step(run: Run, engine: EngineConfig) -> float:
    """Expected seconds of a step: views and clipped gradients of a few random public examples.

    The median of three passes, or one where one example takes long, scaled to the expected batch.
    """
    train_mode(run.model)
    rng = np.random.default_rng()

    def passed(groups: int) -> float:
        start = time.perf_counter()
        made = run.inputs.random_views(groups, rng)
        part = clipped_gradient_sum(
            run.inputs.trained,
            run.loss,
            made.views,
            made.labels,
            run.plan.max_grad_norm,
            engine=engine.name,
            view_chunk=engine.view_chunk,
        )
        part.norms.sum().item()  # reading a value back waits for the device to finish
        return time.perf_counter() - start

    groups, repeats = run.inputs.timed_groups, REPEATS
    warm_up = passed(1)
    if engine.name in ("vectorized", "bookkeeping"):
        # They fill up a portion with zeros, so that fewer groups would take as long.
        empty = torch.empty(0, run.views.spec.views, device=run.device)
        groups = units_at_once(engine.name, run.inputs.trained, empty)
    elif warm_up > LONG_PASS:
        groups, repeats = 1, 1
    each = sorted(passed(groups) for _ in range(repeats))[repeats // 2] / groups
    return each * _drawn(run) / run.views.spec.examples_per_group


def _drawn(run: Run) -> float:
    """How many units a step draws on average, as far as that is public."""
    by_weight = run.config.privacy.balance == "sampling"
    batch = run.plan.expected_batch_size
    return run.plan.denominator if batch is None or by_weight else batch


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
