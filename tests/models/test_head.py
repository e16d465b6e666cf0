"""The linear head and the fixed maps before it."""

import pytest
import torch

from dpmix.models.head import LinearHead


def test_it_starts_at_zero_and_nothing_of_it_is_chance():
    head = LinearHead(5, 3)
    assert all((p == 0).all() for p in head.parameters())
    assert head(torch.randn(2, 5)).shape == (2, 3)


@pytest.mark.parametrize("length", [1.0, 10.0])
def test_unit_features_make_every_examples_gradient_equally_long_at_the_start(length):
    head = LinearHead(5, 3, "unit", length)
    for scale in (1e-3, 1.0, 1e3):
        x = scale * torch.randn(1, 5)
        loss = torch.nn.functional.cross_entropy(head(x), torch.tensor([1]))
        (gradient,) = torch.autograd.grad(loss, [head.linear.weight])
        assert gradient.norm() == pytest.approx(length * (2 / 3) ** 0.5, rel=1e-4)


def test_whitening_uses_public_statistics_and_drops_features_that_say_nothing():
    head = LinearHead(3, 3, "whiten")
    public = torch.tensor([[0.0, 10.0, 7.0], [2.0, 30.0, 7.0], [4.0, 50.0, 7.0]])
    head.set_statistics(public)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(3))
    expected = torch.nn.functional.normalize(torch.tensor([[1.0, 2.0, 0.0]]), dim=1)
    assert torch.allclose(head(torch.tensor([[4.0, 70.0, 9.0]])), expected, atol=1e-5)
    assert {"mean", "scale"} <= head.state_dict().keys()
