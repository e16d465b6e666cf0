"""Soft cross-entropy, by its definition."""

import torch

from dpmix.clipping.loss import soft_cross_entropy


def test_it_is_minus_the_label_weighted_log_probability_of_each_view():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = -(labels * probabilities.log()).sum(1)
    assert torch.allclose(soft_cross_entropy(logits, labels), expected)
