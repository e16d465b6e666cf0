"""The time of a clipped sum, on random images: nothing private is read."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.memory_probe import copy_of
from dpmix.privacy.clipping import Loss, sum_by
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
    subject = copy_of(model) if way.channels_last else model
    called = way.prepare(subject)

    def run(examples: int) -> float:
        images, labels = random_inputs(model, examples, view_shape, views)
        start = time.perf_counter()
        part = sum_by(way.engine, called, loss, images, labels, 1.0, way.view_chunk)
        # Reading a value back waits for the device to finish.
        part.norms.sum().item()
        return (time.perf_counter() - start) / examples

    return run


def random_inputs(
    model: nn.Module, examples: int, view_shape: tuple[int, ...], views: int
) -> tuple[Float[Tensor, "G K *view"], Float[Tensor, "G K L"]]:
    """Views of noise as the model takes them, and labels that say nothing."""
    like = next(p for p in model.parameters() if p.is_floating_point())
    images = torch.rand(examples, views, *view_shape, device=like.device).to(like.dtype)
    with torch.no_grad():
        classes: int = model(images[0, :1]).shape[-1]
    return images, torch.full((examples, views, classes), 1 / classes, device=like.device)
