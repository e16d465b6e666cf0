"""A convolution with scaled weight standardisation.

Guarantees that what convolves is standardised per output channel at every forward, so the
parameters stay plain tensors: no buffer, no state, nothing that depends on the batch.

Sources: Qiao et al. 2019 (arXiv 1903.10520); Brock, De, Smith, Simonyan 2021 (arXiv 2102.06171,
section 2), whose scaled form with a gain De et al. 2022 (arXiv 2204.13650, section 3) use.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dpmix.models.fan_in_init import fan_in_normal_

_EPS = 1e-4  # De et al.'s released code; the floor of var * fan_in


class WSConv2d(nn.Conv2d):
    """A 2-D convolution whose weight is ``(w - mean) * gain / sqrt(max(var * fan_in, 1e-4))``.

    Mean and (biased) variance are taken over the fan-in of each output channel. The learnable
    ``gain`` has shape [out] and starts at one; the bias starts at zero. Arguments mean what they
    mean in ``torch.nn.Conv2d``. Input [B, in, H, W], output [B, out, H', W'].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            groups=groups,
            bias=bias,
        )
        self.gain = nn.Parameter(torch.ones(out_channels))

    def reset_parameters(self) -> None:
        """Draw the weight with variance 1 / fan_in, set the bias to zero and the gain to one."""
        fan_in_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if "gain" in self._parameters:  # absent while Conv2d's own constructor runs
            nn.init.ones_(self.gain)

    def standardized_weight(self) -> Float[Tensor, "O I kH kW"]:
        """Return the weight that convolves, shape [out, in / groups, kH, kW]."""
        fan = (1, 2, 3)
        # In two passes: `torch.var_mean` takes several times as long on a CPU.
        centred = self.weight - self.weight.mean(dim=fan, keepdim=True)
        # var * fan_in is the squared norm of what is centred.
        norm = torch.linalg.vector_norm(centred, dim=fan, keepdim=True).clamp(min=_EPS**0.5)
        weight: Tensor = centred * (self.gain.view(-1, 1, 1, 1) / norm)
        return weight

    def forward(self, x: Float[Tensor, "B I H W"]) -> Float[Tensor, "B O H2 W2"]:
        """Convolve x [B, in, H, W] with the standardised weight."""
        y: Tensor = self._conv_forward(x, self.standardized_weight(), self.bias)
        return y
