"""Any `torch.optim` optimiser by name, or `DPAdamBC`, and its schedule."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dpmix.errors import DpmixError, nearest
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.settings import OptimizerConfig

# Adam whose second moment is corrected for the noise that a private step adds.
#
# The noise adds its variance to every squared gradient. Adam's update then has nearly the same
# size whatever the gradient, so that it turns into momentum with a poor rate. Taking the known
# variance off again leaves the second moment of the clipped gradient itself (DP-AdamBC: Tang,
# Shpilevskiy, Lecuyer 2023, arXiv 2312.14334). It reads the released gradient and the plan only.


class DPAdamBC(Optimizer):
    """Adam with a second moment of `beta2 mean of squares - noise_std^2`, at least `floor`^2.

    Args:
        params: trained parameters.
        lr: learning rate.
        betas: decays of the two moments.
        weight_decay: decoupled, as in AdamW.
        noise_std: standard deviation of the noise on each number of the released gradient, after
            the division by the denominator; 0 gives plain Adam.
        floor: least root of the corrected second moment, in units of `noise_std`: what is below
            can't be told from noise.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        noise_std: float = 0.0,
        floor: float = 0.1,
    ) -> None:
        self.noise_std, self.floor = noise_std, floor
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return None

    def _update(self, parameter: nn.Parameter, gradient: torch.Tensor, group: Any) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = 0
            state["first"] = torch.zeros_like(parameter)
            state["second"] = torch.zeros_like(parameter)
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["first"].lerp_(gradient, 1 - beta1)
        state["second"].lerp_(gradient * gradient, 1 - beta2)
        first = state["first"] / (1 - beta1 ** state["step"])
        second = state["second"] / (1 - beta2 ** state["step"]) - self.noise_std**2
        least = max((self.floor * self.noise_std) ** 2, 1e-16)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.addcdiv_(first, second.clamp(min=least).sqrt(), value=-group["lr"])


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
