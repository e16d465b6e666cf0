"""Fan-in scaled initialisation: weights start with variance 1 / fan_in, biases at zero.

Guarantees that the variance after truncation, not before it, is 1 / fan_in, as Haiku's
``VarianceScaling(1.0)`` does in De et al. 2022 (arXiv 2204.13650, released code).
"""

import math

from torch import Tensor, nn

# Standard deviation of a unit normal that is truncated at two standard deviations.
_TRUNCATED_STD = 0.87962566103423978


def fan_in_normal_(weight: Tensor) -> None:
    """Fill a weight in place from a truncated normal with variance 1 / fan_in.

    Args:
        weight: a weight of shape [out, in, ...]; fan_in is the product of all but the first axis.
    """
    std = 1.0 / (math.sqrt(weight[0].numel()) * _TRUNCATED_STD)
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
