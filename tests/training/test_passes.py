"""Passes of a backbone: of several units only where none of them can change another's bits."""

import pytest
import torch
from torch import nn

from dpmix.models.backbones import load_backbone
from dpmix.training.passes import CPU_PASS, Passes

CPU, SHAPE = torch.device("cpu"), (3, 12, 12)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5)
    ).requires_grad_(False)


class Planted(nn.Module):
    """A network whose features depend on the others of a pass, or on their place in it."""

    def __init__(self, fault):
        super().__init__()
        self.net, self.fault = network(), fault

    def forward(self, x):
        y = self.net(x)
        if self.fault == "neighbours count":
            return y + 1e-7 * y.roll(1, dims=0)
        if self.fault == "the mean is taken out":
            return y - y.mean(dim=0)
        if self.fault == "the last place rounds otherwise":
            y = y.clone()
            y[-1] *= 1 + 2**-23
        if self.fault == "a bright neighbour":
            return y * (1 + 2**-22) if bool((x > 100).any()) else y
        return y


@pytest.mark.parametrize(
    "fault",
    ["neighbours count", "the mean is taken out", "the last place rounds otherwise",
     "a bright neighbour"],
)  # fmt: skip
def test_units_are_kept_apart_where_one_changes_another(fault):
    passes = Passes(Planted(fault), SHAPE, CPU, 2)
    assert not passes.shared and passes.units == 1
    views = torch.randn(2, *SHAPE)
    assert torch.equal(passes.embed(views), Planted(fault)(views))


@pytest.mark.parametrize(("views", "most", "size", "units"), [
    (1, None, CPU_PASS, 8), (3, None, 6, 2), (4, None, 8, 2), (8, None, 8, 1), (9, None, 9, 1),
    (34, None, 9, 1), (36, None, 9, 1), (16, None, 8, 1), (20, None, 10, 1), (1, 1, 1, 1),
    (1, 5, 5, 5), (36, 4, 4, 1), (3, 2, 2, 1),
])  # fmt: skip
def test_a_pass_holds_whole_units_or_equal_parts_of_one(views, most, size, units):
    passes = Passes(network(), SHAPE, CPU, views, most)
    assert passes.shared and (passes.size, passes.units) == (size, units)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 30])
def test_features_are_those_of_the_network_whatever_shares_the_pass(count):
    torch.set_num_threads(1)
    net, views = network(), torch.randn(count, *SHAPE)
    passes = Passes(net, SHAPE, CPU, 1)
    found = passes.embed(views)
    assert torch.allclose(found, net(views), atol=1e-5)
    for i in range(count):
        assert torch.equal(passes.embed(views[i : i + 1])[0], found[i])


def test_the_transform_without_weights_shares_passes():
    backbone = load_backbone("scatternet", CPU, input_size=16)
    assert Passes(backbone.module, SHAPE, CPU, 1).shared
