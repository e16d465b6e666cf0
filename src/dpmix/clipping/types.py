"""What all engines share: names, the loss of single views, the sum, and the trained parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.clipping.accumulator import sum_dtype
from dpmix.data.source import Task
from dpmix.errors import DpmixError

Engine = Literal["auto", "examplewise", "vectorized", "linear", "bookkeeping"]
ENGINES: tuple[str, ...] = get_args(Engine)
# Maps logits [K, L] and soft labels [K, L] to one loss per view, [K].
Loss = Callable[[Tensor, Tensor], Tensor]


class CannotRunError(DpmixError):
    """The engine can't run the model."""


@dataclass(frozen=True)
class EngineConfig:
    """How a run computes its clipped sums; the choice changes them by rounding only.

    Attributes:
        name: `examplewise`, `vectorized`, `linear` or `bookkeeping`.
        view_chunk: most views in one forward pass of `examplewise`; None: all K views of a unit.
        reason: why this engine, in a few words.
    """

    name: Engine
    view_chunk: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        return self.name + (f", {self.view_chunk} views at a time" if self.view_chunk else "")


@dataclass(frozen=True)
class ClippedSum:
    """What one call computed for G groups; everything here is private until noise is added.

    Attributes:
        gradients: sum of the clipped gradients, one tensor per trainable parameter, in
            `model.named_parameters()` order, float64 (float32 on mps).
        norms: each group's gradient norm before clipping, [G]; not finite where the gradient was
            not and counted as zero.
        losses: each group's mean loss over its views, [G].
        engine: name of the engine that computed it.
    """

    gradients: list[Tensor]
    norms: Float[Tensor, " G"]
    losses: Float[Tensor, " G"]
    engine: str


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The model's parameters that receive gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def zero_sum(parameters: list[nn.Parameter]) -> list[Tensor]:
    """Zeros to which clipped gradients are added, of the parameters' shapes."""
    return [torch.zeros_like(p, dtype=sum_dtype(p.device)) for p in parameters]


def soft_cross_entropy(
    logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Cross-entropy with soft labels, one value per view."""
    return F.cross_entropy(logits, labels, reduction="none")


def multi_label_loss(
    logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Mean binary cross-entropy over a view's known labels; NaN marks the others.

    Labels lie in [0, 1], as mixup makes them. A view without any known label has loss 0. An unknown
    label enters neither the loss nor its gradient, whatever its logit.
    """
    known = ~labels.isnan()
    each = F.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0.0), reduction="none")
    return (each * known).sum(dim=-1) / known.sum(dim=-1).clamp(min=1)


LOSSES: dict[Task, Loss] = {"single-label": soft_cross_entropy, "multi-label": multi_label_loss}
"""The losses of the package: that of a view is a function of its logits and labels alone."""


def per_view_loss(
    loss: Loss, logits: Float[Tensor, "K L"], labels: Float[Tensor, "K L"]
) -> Float[Tensor, " K"]:
    """Apply `loss`, and refuse another shape than one value per view."""
    values = loss(logits, labels)
    if values.shape != labels.shape[:1]:
        raise DpmixError(
            f"the loss returned shape {list(values.shape)} for {len(labels)} views; expected one "
            "value per view: use reduction='none'"
        )
    return values


def unit_losses(
    loss: Loss, logits: Float[Tensor, "R K L"], labels: Float[Tensor, "R K L"]
) -> Float[Tensor, "R K"]:
    """Each view's loss. A custom loss gets one unit at a time.

    It may look at all its rows, such as for the frequencies of labels: they are then one unit's.
    The rows are cloned so that their address does not depend on the unit's place.
    """
    if loss in LOSSES.values():
        together = per_view_loss(loss, logits.flatten(0, 1), labels.flatten(0, 1))
        return together.view(logits.shape[:2])
    pairs = zip(logits, labels, strict=True)
    return torch.stack(
        [per_view_loss(loss, row.clone(), its_labels.clone()) for row, its_labels in pairs]
    )
