"""What a run will cost, measured on public random images of the right shape."""

import time

import numpy as np
import torch
from torch import Tensor, nn

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.clipping.types import EngineConfig
from dpmix.clipping.vectorized import vectorized_units
from dpmix.models.finetune import train_mode
from dpmix.models.registry import parameter_count
from dpmix.reports.facts import pictures_in_words, views_in_words
from dpmix.reports.summary import pool_rows
from dpmix.runs.build import Run
from dpmix.runs.settings import OptimizerConfig
from dpmix.views.spec import ViewSpec

REPEATS = 3
LONG_PASS = 0.3  # seconds

Rows = list[tuple[str, str]]


def estimate_rows(run: Run) -> Rows:
    """Model, data, cost per step, memory and an estimate of the time, a line each.

    Raises:
        DpmixError: a model or data that training would refuse.
    """
    engine = run.trainer().engine
    seconds = seconds_per_step(run, engine)
    views, spec = run.views.spec.views, run.views.spec
    groups = run.plan.denominator / spec.examples_per_group
    optimizer = run.config.optimizer
    pretraining, cached = run.pretraining, cache_line(run)
    return [
        *model_rows(run),
        *([("hint", run.backbone_hint)] if run.backbone_hint else []),
        ("data", data_line(run)),
        ("pictures", pictures_line(run)),
        *([("pretraining", f"{pretraining.epochs} epochs, {pretraining.steps} steps; not in the "
            "time below")] if pretraining else []),
        *pool_rows(run.pool_facts, run.config.views.pool_role),
        ("views", _views_line(spec)),
        ("optimizer", _optimizer_line(optimizer)),
        ("cost of a step", f"{groups:g} clipped gradients x {views} views = "
         f"{groups * views:g} forward and backward passes"),
        ("engine", f"{engine}: {engine.reason}"),
        ("memory", f"about {step_memory(run) / 2**20:,.0f} MiB for weights, gradients and the "
         "views of one example"),
        *([("feature cache", cached + _time_to_embed(run))] if cached else []),
        ("time", f"about {seconds:.2f} s a step, {_duration(seconds * run.plan.steps)} in all "
         f"on {run.device}"),
    ]  # fmt: skip


def seconds_per_step(run: Run, engine: EngineConfig) -> float:
    """Expected seconds of a step: views and clipped gradients of a few random public examples.

    The median of three passes after one to warm up, scaled to the expected batch. Where one example
    takes long, the only pass after the first.
    """
    train_mode(run.model)
    rng = np.random.default_rng()

    def passed(groups: int) -> float:
        start = time.perf_counter()
        made = run.inputs.random_views(groups, rng)
        part = clipped_gradient_sum(
            run.inputs.trained,
            soft_cross_entropy,
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
    if engine.name == "vectorized":
        # It fills up a portion with zeros, so that fewer groups would take as long.
        empty = torch.empty(0, run.views.spec.views, device=run.device)
        groups = vectorized_units(run.inputs.trained, empty)
    elif warm_up > LONG_PASS:
        groups, repeats = 1, 1
    each = sorted(passed(groups) for _ in range(repeats))[repeats // 2] / groups
    return each * run.plan.denominator / run.views.spec.examples_per_group


def step_memory(run: Run) -> int:
    """Bytes that a step of the engine `examplewise` needs.

    Weights; for each trained one its gradient, the float64 sum and the moving average; and what the
    forward over one example's views keeps for the backward, measured on random ones.
    """
    weights = sum(int(t.nbytes) for t in run.model.state_dict().values())
    made = run.inputs.random_views(1, np.random.default_rng())
    chunk = run.config.run.view_chunk or made.views.shape[1]
    activations = activation_bytes(run.inputs.trained, made.views[0, :chunk])
    return weights + 16 * parameter_count(run.model) + activations


def activation_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that a forward pass over `images` keeps for the backward, without the parameters."""
    kept: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        model(images)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    return sum(size for where, size in kept.items() if where not in own)


def model_rows(run: Run) -> Rows:
    """What is trained, and how much of the whole that is."""
    model, backbone = run.config.model, run.backbone
    trained, whole = parameter_count(run.model), sum(p.numel() for p in run.model.parameters())
    if backbone is None:
        return [("model", f"{model.model}, {trained:,} parameters")]
    return [
        ("backbone", f"{backbone.name}: {backbone.embedding_size:,} features at "
         f"{backbone.module.input_size} pixels; {backbone.provenance}"),
        ("trained", f"{model.trainable}: {trained:,} of {whole:,} parameters"),
    ]  # fmt: skip


def data_line(run: Run) -> str:
    """The data in one line, without N where that is private."""
    splits = run.splits
    count = "training images (N is private)" if run.plan.n is None else f"{run.plan.n} training"
    return (
        f"{splits.name}: {count} and {len(splits.test)} {splits.judged_on} "
        f"images of {len(splits.train.class_names)} classes"
    )


def pictures_line(run: Run) -> str:
    """What happens to the pictures, in one line."""
    return pictures_in_words(run.config.model_dump(mode="json"), run.splits, run.views.spec)


def cache_line(run: Run) -> str | None:
    """How much is embedded, and where; None where nothing is."""
    return run.inputs.cache_size(n_is_public=run.plan.n is not None)


def _time_to_embed(run: Run) -> str:
    if run.plan.n is None:  # the time would tell N
        return ""
    return f"; about {_duration(run.inputs.seconds_to_embed())} to make, once"


def _views_line(spec: ViewSpec) -> str:
    padding = "" if spec.method == "none" else f"; crop padding {spec.crop_padding}"
    return views_in_words(spec) + padding


def _optimizer_line(chosen: OptimizerConfig) -> str:
    momentum = "" if chosen.momentum is None else f", momentum {chosen.momentum:g}"
    return f"{chosen.optimizer}, learning rate {chosen.learning_rate:g}{momentum}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
