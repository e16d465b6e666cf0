"""What a run will cost, measured on public random images of the right shape."""

import time

import numpy as np
import torch
from torch import Tensor, nn

from dpmix.clipping.engine import choose_engine, clipped_gradient_sum
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.clipping.types import EngineConfig
from dpmix.clipping.vectorized import vectorized_units
from dpmix.models.finetune import train_mode
from dpmix.models.registry import parameter_count
from dpmix.reports.facts import pictures_in_words, views_in_words
from dpmix.reports.summary import pool_rows
from dpmix.runs.parts import Run
from dpmix.runs.settings import OptimizerConfig
from dpmix.views.builder import ViewSet
from dpmix.views.spec import ViewSpec

PROBE_GROUPS = 8


PROBE_ROWS = 128  # a head is so small that fewer would time the start of a call


REPEATS = 3


LONG_PASS, VERY_LONG_PASS = 0.3, 2.0  # seconds


def seconds_per_step(parts: Run, chosen: EngineConfig) -> float:
    """Expected seconds of a step: views and clipped gradients of a few random public examples.

    The median of three passes after one to warm up, scaled to the expected batch; of one pass over
    as few examples as can be where those take long by themselves. Views that are cached are
    random features here: drawing them is a copy.
    """
    rng = np.random.default_rng()
    train_mode(parts.model)
    fewest = parts.views.spec.examples_per_group
    warm_up = _seconds_of_pass(parts, chosen, fewest, rng)
    if warm_up > LONG_PASS and chosen.name != "vectorized":  # whose first call takes long
        again = (
            _seconds_of_pass(parts, chosen, fewest, rng) if warm_up < VERY_LONG_PASS else warm_up
        )
        return again / fewest * parts.plan.denominator
    groups = PROBE_GROUPS if parts.cache is None else PROBE_ROWS
    if chosen.name == "vectorized":
        # It fills up a portion with zeros, so that fewer groups would take as long.
        groups = vectorized_units(
            parts.trained, torch.empty(0, parts.views.spec.views, device=parts.device)
        )
    examples = groups * fewest
    times = sorted(_seconds_of_pass(parts, chosen, examples, rng) for _ in range(REPEATS))
    return times[REPEATS // 2] / examples * parts.plan.denominator


def chosen_engine(parts: Run) -> EngineConfig:
    """How the run would compute a clipped sum."""
    views, run = parts.views, parts.config.run
    shape: tuple[int, ...] = views.view_shape(parts.splits.train.image_shape)
    if parts.cache is not None and parts.backbone is not None:
        shape = (parts.backbone.embedding_size,)
    return choose_engine(
        run.engine, parts.trained, soft_cross_entropy, shape, views.spec.views, run.view_chunk
    )


def _seconds_of_pass(
    parts: Run, chosen: EngineConfig, examples: int, rng: np.random.Generator
) -> float:
    start = time.perf_counter()
    made = _random_views(parts, examples, rng)
    part = clipped_gradient_sum(
        parts.trained,
        soft_cross_entropy,
        made.views,
        made.labels,
        parts.plan.max_grad_norm,
        engine=chosen.name,
        view_chunk=chosen.view_chunk,
    )
    # Reading a value back waits for the device to finish.
    part.norms.sum().item()
    return time.perf_counter() - start


def _random_views(parts: Run, examples: int, rng: np.random.Generator) -> ViewSet:
    spec, classes = parts.views.spec, parts.views.num_classes
    labels = torch.randint(0, classes, (examples,), device=parts.device)
    if parts.cache is not None and parts.backbone is not None:
        shape = (examples, spec.views, parts.backbone.embedding_size)
        soft = torch.nn.functional.one_hot(labels, classes).float()
        return ViewSet(
            torch.rand(shape, device=parts.device), soft[:, None].expand(-1, spec.views, -1)
        )
    groups = examples // spec.examples_per_group
    image_shape = parts.splits.train.image_shape
    images = torch.randint(0, 256, (examples, *image_shape), dtype=torch.uint8, device=parts.device)
    return parts.views.build(images, labels, parts.views.draw_views(groups, rng))


def estimate_rows(parts: Run) -> list[tuple[str, str]]:
    """Model size, cost per step, memory and an estimate of the time, a line each."""
    chosen = chosen_engine(parts)
    seconds = seconds_per_step(parts, chosen)
    views = parts.views.spec.views
    groups = parts.plan.denominator / parts.views.spec.examples_per_group
    return [
        *model_rows(parts),
        *([("hint", parts.hint)] if parts.hint else []),
        ("data", data_line(parts)),
        ("pictures", pictures_line(parts)),
        *_pretraining_rows(parts),
        *pool_rows(parts.pool_facts, parts.config.views.pool_role),
        ("views", _views_line(parts.views.spec)),
        ("optimizer", _optimizer_line(parts.config.optimizer)),
        ("cost of a step", f"{groups:g} clipped gradients x {views} views = "
         f"{groups * views:g} forward and backward passes"),
        ("engine", f"{chosen}: {chosen.reason}"),
        ("memory", f"about {step_memory(parts) / 2**20:,.0f} MiB for weights, gradients and the "
         "views of one example"),
        *_cache_rows(parts),
        ("time", f"about {seconds:.2f} s a step, {_duration(seconds * parts.plan.steps)} in all "
         f"on {parts.device}"),
    ]  # fmt: skip


def _views_line(spec: ViewSpec) -> str:
    said = views_in_words(spec)
    if spec.method == "none":
        return said
    return f"{said}; crop padding {spec.crop_padding}"


def _optimizer_line(chosen: OptimizerConfig) -> str:
    momentum = "" if chosen.momentum is None else f", momentum {chosen.momentum:g}"
    return f"{chosen.optimizer}, learning rate {chosen.learning_rate:g}{momentum}"


def model_rows(parts: Run) -> list[tuple[str, str]]:
    """What is trained, and how much of the whole that is."""
    model = parts.config.model
    trained, whole = parameter_count(parts.model), sum(p.numel() for p in parts.model.parameters())
    if parts.backbone is None:
        return [("model", f"{model.model}, {trained:,} parameters")]
    return [
        ("backbone", f"{parts.backbone.name}: {parts.backbone.embedding_size:,} features at "
         f"{parts.backbone.module.input_size} pixels; {parts.backbone.provenance}"),
        ("trained", f"{model.trainable}: {trained:,} of {whole:,} parameters"),
    ]  # fmt: skip


def step_memory(parts: Run) -> int:
    """Bytes that a step of the engine `examplewise` holds.

    Weights; for each trained one its gradient, the float64 sum and the moving average; and what the
    forward over one example's views keeps for the backward, measured on random ones.
    """
    weights = sum(int(t.nbytes) for t in parts.model.state_dict().values())
    made = _random_views(parts, parts.views.spec.examples_per_group, np.random.default_rng())
    chunk = parts.config.run.view_chunk or made.views.shape[1]
    activations = activation_bytes(parts.trained, made.views[0, :chunk])
    return weights + 16 * parameter_count(parts.model) + activations


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


def cache_size(parts: Run) -> tuple[int, int, int]:
    """Views to embed, and bytes of the whole cache: (training views, test images, bytes)."""
    assert parts.cache is not None
    train = parts.cache.train_layout(parts.splits.train, parts.views)
    test = parts.cache.test_layout(parts.splits.test)
    return train.rows * train.views, test.rows, train.bytes + test.bytes


def cache_line(parts: Run) -> str:
    """How much is embedded, and where it lies. Its size would tell N, where that is private."""
    views, test, size = cache_size(parts)
    judged_on, place = parts.splits.judged_on, f"{parts.config.features.cache_dir} (private)"
    if parts.plan.n is None:
        assert parts.cache is not None
        each = parts.cache.train_layout(parts.splits.train, parts.views).views
        return f"{each} views of each training image and {test:,} {judged_on} images, in {place}"
    return f"{views:,} views and {test:,} {judged_on} images, {size / 1e9:.2f} GB in {place}"


def _cache_rows(parts: Run) -> list[tuple[str, str]]:
    if parts.cache is None:
        return []
    if parts.plan.n is None:
        return [("feature cache", cache_line(parts))]
    views, test, _ = cache_size(parts)
    seconds = (views + test) * parts.cache.seconds_per_view(
        parts.splits.train.image_shape, parts.views
    )
    return [("feature cache", f"{cache_line(parts)}; about {_duration(seconds)} to make, once")]


def _pretraining_rows(parts: Run) -> list[tuple[str, str]]:
    if parts.pretraining is None:
        return []
    work = parts.pretraining
    return [("pretraining", f"{work.epochs} epochs, {work.steps} steps; not in the time below")]


def data_line(parts: Run) -> str:
    """What was read, in one line, without N where that is private."""
    splits = parts.splits
    count = "training images (N is private)" if parts.plan.n is None else f"{parts.plan.n} training"
    return (
        f"{splits.name}: {count} and {len(splits.test)} {splits.judged_on} "
        f"images of {len(splits.train.class_names)} classes"
    )


def pictures_line(parts: Run) -> str:
    """What happens to the pictures, in one line."""
    return pictures_in_words(parts.config.model_dump(mode="json"), parts.splits, parts.views.spec)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
