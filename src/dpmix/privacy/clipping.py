"""The sum of clipped per-example gradients, and the choice of the engine that computes it.

Formal guarantee: with fixed coins, adding or removing one group of views changes the returned sum
by at most C = `max_grad_norm` in Euclidean norm over all parameters together. Each group's gradient
is that of the MEAN loss over its K views, scaled by min(1, C / norm); a gradient that is not finite
contributes zero. `tests/properties/test_sensitivity.py` checks it.
"""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dpmix.errors import DpmixError, nearest
from dpmix.models.head import LinearHead
from dpmix.privacy.clipped_accumulator import sum_dtype

Engine = Literal["auto", "examplewise", "vectorized", "linear"]
ENGINES: tuple[str, ...] = get_args(Engine)

# Maps logits [K, L] and soft labels [K, L] to one loss per view, [K].
Loss = Callable[[Tensor, Tensor], Tensor]

# Measured on two cores (benchmarks/step_speed.py): from this K on, one example at a time is faster
# for convolutions. Larger models than this gain nothing from vmap and need a gradient per example.
EXAMPLEWISE_VIEWS = 16
VECTORIZED_PARAMETERS = 1 << 20

logger = logging.getLogger(__name__)


class CannotRunError(DpmixError):
    """The model does what the engine asked for can't allow."""


@dataclass(frozen=True)
class ClippedSum:
    """What one call computed for G groups; everything here is private until noise is added.

    Attributes:
        gradients: sum of the clipped gradients, one tensor per trainable parameter, in
            `model.named_parameters()` order, float64 (float32 on mps).
        norms: each group's gradient norm before clipping (not finite where it was dropped).
        losses: each group's mean loss over its views.
        engine: what computed it.
    """

    gradients: list[Tensor]
    norms: Float[Tensor, " G"]
    losses: Float[Tensor, " G"]
    engine: str

    @property
    def dropped(self) -> Bool[Tensor, " G"]:
        """Groups whose gradient was not finite and so counted as zero."""
        return ~torch.isfinite(self.norms)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters that receive gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradient_dtype(parameter: Tensor) -> torch.dtype:
    """One example's gradient: float32, or float64 where the parameter is; half loses terms."""
    return torch.promote_types(parameter.dtype, torch.float32)


def zero_sum(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Zeros in which clipped gradients are added up."""
    return [torch.zeros_like(p, dtype=sum_dtype(p.device)) for p in parameters]


def clipped_gradient_sum(
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    *,
    engine: Engine = "auto",
    view_chunk: int | None = None,
    example_chunk: int | None = None,
) -> ClippedSum:
    """Return the SUM of clipped gradients over G groups of K views each, never an average.

    DP-SGD (Abadi et al. 2016) with augmentation multiplicity (De et al. 2022, section 3.2).

    Args:
        model: any module that keeps no statistics of what it sees (`models.check_private`).
        loss: one loss per view; a scalar would hide whether it is a sum or a mean. It must keep no
            state from one call to the next.
        views: groups of views; one group, one clipped gradient.
        labels: soft labels.
        max_grad_norm: C; infinite leaves gradients unclipped.
        engine: `examplewise`, `vectorized`, `linear` or `auto` (by the rule of `choose_engine`).
            `examplewise` takes the place of one that would let units move each other.
        view_chunk: at most so many views per forward pass (`examplewise`); exact, less memory.
        example_chunk: groups that are computed at a time (`vectorized` and `linear`).

    Raises:
        DpmixError: unknown engine, shapes that do not fit, a loss that is not one per view, a model
            that the engine asked for by name cannot run.
    """
    _check(model, views, labels, max_grad_norm, engine)
    used, reason = engine_that_runs(engine, model, loss, views, labels, example_chunk)
    logger.debug("engine %s: %s", used, reason)
    if engine not in ("auto", used):
        slower = f"engine {used} computes the same sum, more slowly"
        warnings.warn(f"engine {reason}; {slower}", stacklevel=2)
    return sum_by(used, model, loss, views, labels, max_grad_norm, view_chunk, example_chunk)


def sum_by(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    max_grad_norm: float,
    view_chunk: int | None = None,
    example_chunk: int | None = None,
) -> ClippedSum:
    """As `clipped_gradient_sum`, by an engine that `engine_that_runs` named, or on public views."""
    # The engines import this module's types, hence the late import.
    from dpmix.privacy.examplewise import examplewise_sum
    from dpmix.privacy.linear import linear_sum, linear_units
    from dpmix.privacy.vectorized import vectorized_sum, vectorized_units

    if engine == "linear":
        units = example_chunk or linear_units(model, views)
        return linear_sum(model, loss, views, labels, max_grad_norm, units)
    if engine == "vectorized":
        units = example_chunk or vectorized_units(model, views)
        return vectorized_sum(model, loss, views, labels, max_grad_norm, units)
    return examplewise_sum(model, loss, views, labels, max_grad_norm, view_chunk)


def engine_that_runs(
    engine: Engine,
    model: nn.Module,
    loss: Loss,
    views: Float[Tensor, "G K *view"],
    labels: Float[Tensor, "G K L"],
    example_chunk: int | None = None,
) -> tuple[Engine, str]:
    """The engine that computes the sum, and why: `examplewise` where the one asked for must not.

    Several units at once are computed only by an engine that a probe has seen to compute each as if
    it were alone (`privacy/place_probe.py`). Arguments are as in `clipped_gradient_sum`; of views
    and labels no value is read.

    Raises:
        DpmixError: the engine was asked for by name and cannot run the model.
    """
    from dpmix.privacy.linear import linear_numbers, linear_units
    from dpmix.privacy.place_probe import why_not_apart
    from dpmix.privacy.vectorized import vectorized_numbers, vectorized_units

    chosen, reason = (
        choose_engine(model, views.shape[1]) if engine == "auto" else (engine, "as asked for")
    )
    if chosen == "examplewise":
        return chosen, reason
    numbers, at_once = (
        (linear_numbers, linear_units)
        if chosen == "linear"
        else (vectorized_numbers, vectorized_units)
    )
    try:
        units = example_chunk or at_once(model, views)
        refusal = why_not_apart(numbers, model, loss, views, labels, units)
    except CannotRunError as error:
        if engine != "auto":
            raise CannotRunError(f"engine {error}; use engine 'examplewise'") from error
        return "examplewise", str(error)
    if not refusal:
        return chosen, reason
    return "examplewise", f"{chosen} is not used: {refusal}"


def choose_engine(model: nn.Module, views: int) -> tuple[Engine, str]:
    """Pick an engine by K and the model; return it with the reason.

    One vmap over many examples saves the cost of starting each pass, which rules in small models;
    but it turns a convolution's weight gradient into a grouped convolution, which is slow once the
    K views of one example fill the hardware by themselves.
    """
    size = sum(p.numel() for p in trainable(model).values())
    if size > VECTORIZED_PARAMETERS:
        return "examplewise", f"{size:,} parameters: one gradient at a time saves memory"
    whole = sum(p.numel() for p in model.parameters())
    if whole > VECTORIZED_PARAMETERS:
        return "examplewise", f"{whole:,} parameters, frozen ones included, are slow under vmap"
    if isinstance(model, LinearHead):
        return "linear", f"{size:,} parameters in one linear layer on given features"
    owners = [m for m in model.modules() if any(True for _ in m.parameters(recurse=False))]
    if all(isinstance(module, nn.Linear) for module in owners):
        return "vectorized", f"{size:,} parameters, all in linear layers"
    if views < EXAMPLEWISE_VIEWS:
        return "vectorized", f"K = {views} views leave the hardware idle one example at a time"
    return "examplewise", f"K = {views} views of one example fill the hardware"


def _check(
    model: nn.Module, views: Tensor, labels: Tensor, max_grad_norm: float, engine: str
) -> None:
    if engine not in ENGINES:
        raise DpmixError(f"unknown engine '{engine}': {nearest(engine, ENGINES)}")
    if not max_grad_norm > 0:
        raise DpmixError(f"max_grad_norm is {max_grad_norm:g}; expected above 0")
    if views.shape[:2] != labels.shape[:2] or labels.ndim != 3 or views.shape[1] == 0:
        raise DpmixError(
            f"views are {list(views.shape)} and labels {list(labels.shape)}; expected "
            "[G, K, ...] and [G, K, L] with the same G and the same K of 1 or more"
        )
    if not trainable(model):
        raise DpmixError("the model has no trainable parameter; set requires_grad on some")
