"""The sum of clipped per-unit gradients, and the rule by which `auto` picks its engine.

Formal guarantee: with fixed draws, adding or removing one group of views changes the returned sum
by at most C = `max_grad_norm` in Euclidean norm over all parameters together. Each group's gradient
is that of the MEAN loss over its K views, scaled by min(1, C / norm); a gradient that is not finite
contributes zero. `tests/properties/test_sensitivity.py` checks it.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dpmix.clipping.bookkeeping import (
    bookkeeping_numbers,
    bookkeeping_sum,
    bookkeeping_units,
    require_equal,
)
from dpmix.clipping.examplewise import examplewise_sum
from dpmix.clipping.linear import linear_numbers, linear_sum, linear_units
from dpmix.clipping.model_check import number_of_classes
from dpmix.clipping.place_probe import why_not_apart
from dpmix.clipping.types import (
    ENGINES,
    CannotRunError,
    ClippedSum,
    Engine,
    EngineConfig,
    Loss,
    trainable,
)
from dpmix.clipping.vectorized import (
    MAX_GRADIENT_NUMBERS,
    vectorized_numbers,
    vectorized_sum,
    vectorized_units,
)
from dpmix.errors import DpmixError, nearest
from dpmix.models.head import LinearHead

# From this K on, the views of one unit fill the hardware.
_EXAMPLEWISE_VIEWS, _GROUPED_EXAMPLEWISE_VIEWS = 16, 5
# More frozen parameters than this slow `vmap` down.
_FROZEN_PARAMETERS = 1 << 20
# From this share of trained parameters in linear layers on, other layers do not matter.
_LINEAR_SHARE = 0.9

# From this many numbers in the views of one unit on (14 views at 224 pixels), the activations of
# several units take gigabytes (docs/performance.md).
_LARGE_VIEWS = 1 << 21

# The engines that compute several units at once: the sum, units at a time, numbers to compare.
_PORTIONED = {
    "vectorized": (vectorized_sum, vectorized_units, vectorized_numbers),
    "linear": (linear_sum, linear_units, linear_numbers),
    "bookkeeping": (bookkeeping_sum, bookkeeping_units, bookkeeping_numbers),
}


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    *,
    engine: Engine = "auto",
    view_chunk: int | None = None,
) -> ClippedSum:
    """Return the SUM of clipped gradients over G groups of K views each, never an average.

    DP-SGD (Abadi et al. 2016) with augmentation multiplicity (De et al. 2022, section 3.2).

    Args:
        model: any module that keeps no statistics of its inputs (see `check_private`).
        loss: maps logits [K, L] and soft labels [K, L] to one loss per view, [K]; a scalar would
            hide whether it is a sum or a mean. It must keep no state from one call to the next.
        views: groups of views; each group gives one clipped gradient.
        labels: soft labels of the views.
        max_grad_norm: clipping norm C; infinite leaves gradients unclipped.
        engine: `examplewise`, `vectorized`, `linear`, or `auto` for the rule of `engine_by_rule`;
            or `bookkeeping`, which is faster for few views and adds in float32. `examplewise`
            replaces an engine in which units would influence each other.
        view_chunk: most views per forward pass of `examplewise`; exact, saves memory.

    Raises:
        DpmixError: unknown engine, shapes that do not fit, a loss that is not one per view, or a
            model that the requested engine can't run.
    """
    if not max_grad_norm > 0:
        raise DpmixError(f"max_grad_norm is {max_grad_norm:g}; expected above 0")
    if views.shape[:2] != labels.shape[:2] or labels.ndim != 3 or views.shape[1] == 0:
        raise DpmixError(
            f"views are {list(views.shape)} and labels {list(labels.shape)}; expected "
            "[G, K, ...] and [G, K, L] with the same G and the same K of 1 or more"
        )
    if not trainable(model):
        raise DpmixError("the model has no trainable parameter; set requires_grad on some")
    used, _ = engine_that_runs(engine, model, loss, views, labels)
    chunk = view_chunk if used == "examplewise" else None
    return sum_by(used, model, loss, views, labels, max_grad_norm, chunk)


def sum_by(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    chunk: int | None = None,
) -> ClippedSum:
    """As `clipped_gradient_sum`, by an engine that `engine_that_runs` returned.

    `chunk` is the number of views in a pass of `examplewise`, and of units in one of the others.
    """
    if engine not in _PORTIONED:
        return examplewise_sum(model, loss, views, labels, max_grad_norm, chunk)
    units = chunk or units_at_once(engine, model, views)
    return _PORTIONED[engine][0](model, loss, views, labels, max_grad_norm, units)


def units_at_once(engine: Engine, model: nn.Module, views: Float[Tensor, "G K *view"]) -> int:
    """R, how many units an engine computes at a time; one for `examplewise`."""
    return _PORTIONED[engine][1](model, views) if engine in _PORTIONED else 1


def choose_engine(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
    view_chunk: int | None = None,
) -> EngineConfig:
    """Choose how a run computes its clipped sums, before it reads any image.

    Arguments are those of `clipped_gradient_sum`, but for the shape of one view, [C, H, W] or [D],
    and the number of `views` per unit, K. The model is left as it was.

    Raises:
        DpmixError: the requested engine is unknown or can't run the model.
    """
    like = next(p for p in model.parameters() if p.is_floating_point())
    noise = like.new_zeros(1, views, *view_shape)
    labels = torch.zeros(1, views, number_of_classes(model, view_shape), device=like.device)
    runs, reason = engine_that_runs(engine, model, loss, noise, labels)
    if engine == "auto" and runs == "vectorized" and view_chunk is not None:
        runs, reason = "examplewise", f"{view_chunk} views at a time bound memory"
    return EngineConfig(runs, view_chunk, reason)


def engine_that_runs(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
) -> tuple[Engine, str]:
    """The engine that computes the sum, and why: `examplewise` where another one must not.

    An engine computes several units at once only if a probe saw it compute each unit as if it were
    alone (see `place_probe`). Of views and labels only shapes, dtypes and devices are read.
    """
    if engine not in ENGINES:
        raise DpmixError(f"unknown engine '{engine}': {nearest(engine, ENGINES)}")
    chosen, reason = engine, "as requested"
    if engine == "auto":
        chosen, reason = engine_by_rule(model, views.shape[1])
        if chosen == "vectorized" and views[0].numel() > _LARGE_VIEWS:
            chosen, reason = "examplewise", "the views of one unit are large: several fill memory"
    if chosen not in _PORTIONED:
        return chosen, reason
    units, numbers = units_at_once(chosen, model, views), _PORTIONED[chosen][2]
    try:
        refusal = why_not_apart(numbers, model, loss, views, labels, units)
        if chosen == "bookkeeping" and not refusal:
            require_equal(model, loss, views, labels)
    except CannotRunError as error:
        if engine != "auto":
            raise CannotRunError(f"engine {error}; use engine 'examplewise'") from error
        return "examplewise", str(error)
    if not refusal:
        return chosen, reason
    reason = f"{chosen} is not used: {refusal}"
    if engine != "auto":
        message = f"engine {reason}; engine examplewise computes the same sum"
        warnings.warn(message, stacklevel=3)
    return "examplewise", reason


def engine_by_rule(model: nn.Module, views: int) -> tuple[Engine, str]:
    """The engine of `auto` for a model and K views per unit, and the reason: the first that holds.

    1. `linear` for a linear head on given features.
    2. `examplewise` for models whose gradients or frozen parameters are too many for `vmap`.
    3. `vectorized` for models made of linear layers (MLPs, transformers), at any K.
    4. `vectorized` for K < 16, or K < 5 with grouped convolutions: one `vmap` saves the cost of
       starting a pass per unit.
    5. `examplewise` for the rest: `vmap` turns a convolution's weight gradient into a grouped
       convolution, which is slow once the K views of one unit fill the hardware by themselves.

    `benchmarks/step_speed.py` compares the rule with the best fixed engine.
    """
    size = sum(p.numel() for p in trainable(model).values())
    if isinstance(model, LinearHead):
        return "linear", f"{size:,} parameters in one linear layer on given features"
    if size > MAX_GRADIENT_NUMBERS:
        return "examplewise", f"{size:,} parameters: one gradient at a time saves memory"
    frozen = sum(p.numel() for p in model.parameters()) - size
    if frozen > _FROZEN_PARAMETERS:
        return "examplewise", f"{frozen:,} frozen parameters are slow under vmap"
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.MultiheadAttention))]
    own = [p for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad]
    if sum(p.numel() for p in own) >= _LINEAR_SHARE * size:
        return "vectorized", f"{size:,} parameters, nearly all in linear layers"
    grouped = any(isinstance(m, _ConvNd) and m.groups > 1 for m in model.modules())
    if views < (_GROUPED_EXAMPLEWISE_VIEWS if grouped else _EXAMPLEWISE_VIEWS):
        return "vectorized", f"K = {views} views leave the hardware idle one unit at a time"
    return "examplewise", f"K = {views} views of one unit fill the hardware"
