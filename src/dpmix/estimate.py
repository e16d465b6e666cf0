"""What a run will cost, measured on public random images of the right shape."""

import time

import numpy as np
import torch

from dpmix.assembly import Assembly
from dpmix.data import Splits
from dpmix.models import parameter_count, train_mode
from dpmix.privacy.clipping import choose_engine, clipped_gradient_sum
from dpmix.reporting.summary import pool_rows
from dpmix.training.loss import soft_cross_entropy

PROBE_GROUPS = 8
REPEATS = 3


def seconds_per_step(parts: Assembly) -> float:
    """Expected seconds of a step: views and clipped gradients of a few random public images.

    The median of three passes after one to warm up, scaled to the expected batch.
    """
    spec, shape = parts.views.spec, parts.splits.train.image_shape
    rng = np.random.default_rng()
    examples = PROBE_GROUPS * spec.examples_per_group
    images = torch.randint(0, 256, (examples, *shape), dtype=torch.uint8, device=parts.device)
    labels = torch.randint(0, parts.views.num_classes, (examples,), device=parts.device)
    train_mode(parts.model)
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        made = parts.views.build(images, labels, parts.views.draw_coins(PROBE_GROUPS, rng))
        part = clipped_gradient_sum(
            parts.model,
            soft_cross_entropy,
            made.views,
            made.labels,
            parts.plan.max_grad_norm,
            engine=parts.config.run.engine,
            view_chunk=parts.config.run.view_chunk,
        )
        # Reading a value back waits for the device to finish.
        part.norms.sum().item()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[REPEATS // 2] / examples * parts.plan.expected_batch_size


def estimate_rows(parts: Assembly) -> list[tuple[str, str]]:
    """Model size, cost per step and an estimate of the time, a line each."""
    seconds = seconds_per_step(parts)
    views = parts.views.spec.views
    groups = parts.plan.expected_batch_size / parts.views.spec.examples_per_group
    chosen, reason = choose_engine(parts.model, views)
    if parts.config.run.engine != "auto":
        chosen, reason = parts.config.run.engine, "as asked for"
    return [
        ("model", f"{parts.config.model.model}, {parameter_count(parts.model):,} parameters"),
        ("data", data_line(parts.splits)),
        *_pretraining_rows(parts),
        *pool_rows(parts.pool_facts, parts.config.views.pool_role),
        ("flip", "on" if parts.views.spec.flip else "off"),
        ("cost of a step", f"{groups:g} clipped gradients x {views} views = "
         f"{groups * views:g} forward and backward passes"),
        ("engine", f"{chosen}: {reason}"),
        ("time", f"about {seconds:.2f} s a step, {_duration(seconds * parts.plan.steps)} in all "
         f"on {parts.device}"),
    ]  # fmt: skip


def _pretraining_rows(parts: Assembly) -> list[tuple[str, str]]:
    if parts.pretraining is None:
        return []
    work = parts.pretraining
    return [("pretraining", f"{work.epochs} epochs, {work.steps} steps; not in the time below")]


def data_line(splits: Splits) -> str:
    """What was read, in one line."""
    channels, height, width = splits.train.image_shape
    return (
        f"{splits.name}: {len(splits.train)} training and {len(splits.test)} test images of "
        f"{len(splits.train.class_names)} classes, {height}x{width}, "
        f"{'grey' if channels == 1 else 'RGB'}"
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
