"""Any `torch.optim` optimizer by name, or `DPAdamBC`, and the schedule of its learning rate."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from dpmix.clipping.types import trainable
from dpmix.errors import DpmixError, nearest


class DPAdamBC(Optimizer):
    """AdamW whose second moment is corrected for the noise that a private step adds.

    The noise adds its variance to every squared gradient, so that Adam's update has nearly the same
    size whatever the gradient. Subtracting the known variance leaves the second moment of the
    clipped gradient itself (DP-AdamBC: Tang, Shpilevskiy, Lecuyer 2023, arXiv 2312.14334).

    `noise_std` is the noise's standard deviation on each number of the released gradient; `floor`
    the smallest root of the corrected moment, in units of it. The rest is as in AdamW.
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

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        least = max((self.floor * self.noise_std) ** 2, 1e-16)
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    zeros = torch.zeros_like(parameter)
                    state |= {"step": 0, "first": zeros, "second": zeros.clone()}
                state["step"] += 1
                state["first"].lerp_(gradient, 1 - beta1)
                state["second"].lerp_(gradient * gradient, 1 - beta2)
                first = state["first"] / (1 - beta1 ** state["step"])
                second = state["second"] / (1 - beta2 ** state["step"]) - self.noise_std**2
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.addcdiv_(first, second.clamp(min=least).sqrt(), value=-group["lr"])


# LBFGS evaluates the loss several times a step: releases that the plan does not count.
# SparseAdam takes sparse gradients, and a noisy gradient is dense.
_UNFIT = {"LBFGS", "SparseAdam", "Optimizer"}

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name: value
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, Optimizer) and name not in _UNFIT
} | {"DPAdamBC": DPAdamBC}


def build_optimizer(
    name: str, model: nn.Module, noise_std: float, arguments: Mapping[str, Any]
) -> Optimizer:
    """Build an optimizer over the model's trainable parameters.

    Args:
        name: a class of `torch.optim` that takes one gradient a step, or `DPAdamBC`, in any case.
        model: the model to train.
        noise_std: as in `DPAdamBC`.
        arguments: keyword arguments of the class, such as `lr`; None leaves one out.

    Raises:
        DpmixError: an unknown optimizer, or an argument that it does not take.
    """
    kind = {known.lower(): value for known, value in OPTIMIZERS.items()}.get(name.lower())
    if kind is None:
        raise DpmixError(f"unknown optimizer '{name}': {nearest(name, OPTIMIZERS)}")
    given: dict[str, Any] = {"noise_std": noise_std} if kind is DPAdamBC else {}
    given |= {name: value for name, value in arguments.items() if value is not None}
    known = inspect.signature(kind).parameters
    for argument in given:
        if argument not in known or argument == "params":
            raise DpmixError(f"{kind.__name__} takes no '{argument}': {nearest(argument, known)}")
    try:
        return kind(list(trainable(model).values()), **given)
    except (TypeError, ValueError) as error:
        raise DpmixError(f"{kind.__name__} refuses its settings: {error}") from None


def build_schedule(schedule: str, optimizer: Optimizer, steps: int) -> LambdaLR:
    """A `constant` rate, or `cosine`: half a cosine from the rate to zero over `steps`."""
    if schedule == "constant":
        return LambdaLR(optimizer, lambda _: 1.0)
    return LambdaLR(
        optimizer, lambda step: 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / steps)).item())
    )
