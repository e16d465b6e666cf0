"""What an audit hears of a step: what was clipped, what noise was added to, what came out."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from dpmix.privacy.clipping import zero_sum
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.secure_stream import Stream


class Ear(GaussianNoise):
    """A trainer's noise, which also notes what happens around it.

    Attributes:
        examples: that were clipped since the step began.
        clipped: the sum of what clipping returned for them.
        longest: largest norm of what clipping ever returned, in units of C for each example.
        given: [P], the sum that the noise was added to.
        released: what came out.
        noise: [P], the difference of the two, on the scale of the sum.
        gradients: what the optimizer stepped on.
        optimizer_steps: taken since the step began.
        releases: made in all.
    """

    def __init__(
        self, plan: PrivacyPlan, parameters: list[nn.Parameter], noise: GaussianNoise
    ) -> None:
        self._plan, self._parameters, self._inner = plan, parameters, noise
        self.std, self.denominator = noise.std, noise.denominator
        self.sensitivity = noise.sensitivity
        self.longest, self.releases = 0.0, 0

    def begin(self) -> None:
        """A step begins."""
        self.examples: list[Int64[Tensor, " E"]] = []
        self.clipped = zero_sum(self._parameters)
        self.gradients: list[Tensor] = []
        self.optimizer_steps = 0

    def hear_clipped(self, examples: Int64[Tensor, " E"], gradients: list[Tensor]) -> None:
        """Clipping returned the sum `gradients` for `examples`."""
        self.examples.append(examples)
        torch._foreach_add_(self.clipped, gradients)
        norm = float(torch.stack([one.norm() for one in gradients]).norm())
        self.longest = max(self.longest, norm / (len(examples) * self._plan.max_grad_norm))

    def release(self, clipped_sum: list[Tensor], rng: Stream) -> list[Tensor]:
        """As the noise that it listens to."""
        self.given = flat(clipped_sum)
        released = self._inner.release(clipped_sum, rng)
        self.released = [one.clone() for one in released]
        self.noise = flat(released) * self._plan.denominator - self.given
        self.releases += 1
        return released

    def hear_optimizer(self, optimizer: Optimizer, *_: object) -> None:
        """Hook of the optimizer, which is about to step."""
        self.gradients = [p.grad.clone() for p in self._parameters if p.grad is not None]
        self.optimizer_steps += 1


def flat(tensors: list[Tensor]) -> Float64[Tensor, " P"]:
    """All numbers of `tensors`, copied to the host."""
    return torch.cat([tensor.detach().flatten().cpu().double() for tensor in tensors])
