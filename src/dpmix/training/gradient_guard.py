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


def require_released_gradients(optimizer: Optimizer) -> None:
    """Have `optimizer` refuse to step on a gradient that is not marked, or changed since."""
    optimizer.register_step_pre_hook(_refuse)


def _refuse(
    optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Look at the gradients now, and once more after a closure, which may make others.

    Libraries pass closures that do nothing, so a closure alone is no reason to refuse.
    """
    _check(optimizer)

    def checked(given: Any) -> Any:
        def closure() -> Any:
            loss = given()
            _check(optimizer)
            return loss

        return closure if callable(given) else given

    # The first argument is the optimizer itself.
    itself, *others = args
    return (itself, *map(checked, others)), {name: checked(one) for name, one in kwargs.items()}


def _check(optimizer: Optimizer) -> None:
    held = (p.grad for group in optimizer.param_groups for p in group["params"])
    if any(
        gradient is not None and getattr(gradient, _MARK, None) != gradient._version
        for gradient in held
    ):
        raise DpmixError(
            "optimizer.step() was called on gradients that no private step released; leave "
            "loss.backward() and optimizer.step() out of the loop: PrivateTrainer.step() does both"
        )
