"""Any `torch.optim` optimiser by name, or `DPAdamBC`, and its schedule."""

import inspect
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dpmix.errors import DpmixError, nearest
from dpmix.privacy.plan import PrivacyPlan
from dpmix.settings import OptimizerConfig
from dpmix.training.dp_adam import DPAdamBC

# LBFGS evaluates the loss several times a step: releases that the plan does not count.
# SparseAdam takes sparse gradients, and a noisy gradient is dense.
_UNFIT = {"LBFGS", "SparseAdam", "Optimizer"}

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    name: value
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, Optimizer) and name not in _UNFIT
} | {"DPAdamBC": DPAdamBC}


def build_optimizer(config: OptimizerConfig, model: nn.Module, plan: PrivacyPlan) -> Optimizer:
    """Build the optimiser over the model's trainable parameters; `plan` tells the noise.

    Raises:
        DpmixError: an unknown optimiser, or a setting that it does not take.
    """
    by_name = {name.lower(): value for name, value in _OPTIMIZERS.items()}
    kind = by_name.get(config.optimizer.lower())
    if kind is None:
        raise DpmixError(
            f"unknown optimizer '{config.optimizer}': {nearest(config.optimizer, _OPTIMIZERS)}"
        )
    arguments: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.momentum is not None:
        arguments["momentum"] = config.momentum
    if kind is DPAdamBC:
        arguments["noise_std"] = plan.noise_std / plan.denominator
    arguments |= config.optimizer_options
    known = inspect.signature(kind).parameters
    for name in arguments:
        if name not in known or name == "params":
            raise DpmixError(f"{kind.__name__} takes no '{name}': {nearest(name, known)}")
    try:
        return kind([p for p in model.parameters() if p.requires_grad], **arguments)
    except (TypeError, ValueError) as error:
        raise DpmixError(f"{kind.__name__} refuses its settings: {error}") from None


def build_schedule(config: OptimizerConfig, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Constant rate, or half a cosine from the rate to zero over `steps`."""
    if config.schedule == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    return LambdaLR(
        optimizer, lambda step: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
    )
