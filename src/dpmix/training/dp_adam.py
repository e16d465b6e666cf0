"""Adam whose second moment is corrected for the noise that a private step adds.

The noise adds its variance to every squared gradient. Adam's update then has nearly the same size
whatever the gradient, so that it turns into momentum with a poor rate. Taking the known variance
off again leaves the second moment of the clipped gradient itself (DP-AdamBC: Tang, Shpilevskiy,
Lecuyer 2023, arXiv 2312.14334). It reads the released gradient and the plan only.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer


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
