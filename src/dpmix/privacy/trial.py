"""The time of a clipped sum, on random images: nothing private is read."""

import time
from collections.abc import Callable

import torch
from torch import nn

from dpmix.models.memory_probe import copy_of
from dpmix.privacy.clipping import Loss, clipped_gradient_sum
from dpmix.privacy.way import Way


def trial(
    way: Way,
    model: nn.Module,
    loss: Loss,
    view_shape: tuple[int, ...],
    views: int,
) -> Callable[[int], float]:
    """Return a function from a number of examples to the seconds that one of them takes.

    Args:
        way: to be tried.
        model: on its device; it is left as it was.
        loss: as in `clipped_gradient_sum`.
        view_shape: of one view.
        views: K.
    """
    device = next(model.parameters()).device
    classes = _logits(model, torch.rand(1, *view_shape, device=device)).shape[-1]
    subject = copy_of(model) if way.channels_last else model
    called = way.prepare(subject)

    def run(examples: int) -> float:
        images = torch.rand(examples, views, *view_shape, device=device)
        labels = torch.full((examples, views, classes), 1 / classes, device=device)
        start = time.perf_counter()
        part = clipped_gradient_sum(
            called, loss, images, labels, 1.0, engine=way.engine, view_chunk=way.view_chunk
        )
        # Reading a value back waits for the device to finish.
        part.norms.sum().item()
        return (time.perf_counter() - start) / examples

    return run


def _logits(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(images)
    return logits
