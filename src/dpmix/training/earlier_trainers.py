"""Telling of steps that another trainer may have taken on the same weights."""

import warnings
from weakref import WeakSet

from torch import nn
from torch.optim import Optimizer

_GIVEN: "WeakSet[nn.Module | Optimizer]" = WeakSet()


def tell_of_another_trainer(model: nn.Module, optimizer: Optimizer) -> None:
    """Steps that another trainer took are in the weights, and no part of the next one's plan."""
    if model in _GIVEN or optimizer in _GIVEN:
        warnings.warn(
            "this model or optimizer was given to another private trainer before; this plan's "
            "epsilon does not count steps that were taken there: make both anew",
            stacklevel=3,
        )
    _GIVEN.update((model, optimizer))
