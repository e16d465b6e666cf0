"""What only the engine `examplewise` can get wrong: adding in place, and memory."""

import pytest
import torch
from torch import nn

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.loss import soft_cross_entropy


class TwoBiases(nn.Module):
    """Adds up two parameters: autograd may hand out one gradient tensor for both."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) * (self.first + self.second)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("c", [1e-3, 1e3])
def test_parameters_that_share_a_gradient_tensor_are_not_added_twice(c, chunk):
    model = TwoBiases()
    views = torch.tensor([[[[[1.0, 2.0]]], [[[3.0, 1.0]]]]], dtype=torch.float64)
    labels = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    result = clipped_gradient_sum(
        model, soft_cross_entropy, views, labels, c, engine="examplewise", view_chunk=chunk
    )
    # By hand: softmax of zeros is (1/2, 1/2), so each view's gradient is x * (-1/2, 1/2).
    gradient = torch.tensor([-1.0, 0.75], dtype=torch.float64)
    norm = (2 * gradient.square().sum()).sqrt()
    assert result.norms[0] == pytest.approx(norm.item())
    for part in result.gradients:
        assert torch.allclose(part, gradient * min(1.0, c / norm.item()))
