"""Telling released gradients from all others, so that an optimizer steps on no other.

Guarantee: once a `PrivateTrainer` has an optimizer, that optimizer takes no step on a gradient that
came from elsewhere, such as a `loss.backward()` that was left in a loop
(`tests/training/test_released_gradients.py`).
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from dpmix.errors import DpmixError

_MARK = "_dpmix_released"


def mark_released(gradients: Iterable[Tensor]) -> None:
    """Note that noise was added to `gradients`, as they are now."""
    for gradient in gradients:
        setattr(gradient, _MARK, gradient._version)


def refuse_other_gradients(optimizer: Optimizer) -> None:
    """Have `optimizer` refuse to step on a gradient that is not marked, or changed since."""
    optimizer.register_step_pre_hook(_refuse)


def _refuse(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    held = (p.grad for group in optimizer.param_groups for p in group["params"])
    other = any(
        gradient is not None and getattr(gradient, _MARK, None) != gradient._version
        for gradient in held
    )
    # A closure makes gradients after this look at them. The first argument is the optimizer.
    closure = any(given is not None for given in (*args[1:], *kwargs.values()))
    if other or closure:
        raise DpmixError(
            "optimizer.step() was called on gradients that no private step released; leave "
            "loss.backward() and optimizer.step() out of the loop: PrivateTrainer.step() does both"
        )
