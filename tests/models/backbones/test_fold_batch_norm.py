"""BatchNorm folded into a fixed scale and shift."""

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import ChannelAffine, fold_batch_norm


class Fused(nn.BatchNorm2d):
    """A norm with an activation of its own, as timm has them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def network(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(norm, nn.Conv2d(6, 2, 1))).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False), Fused(6)])
def test_it_computes_what_eval_mode_did_and_keeps_no_statistics(norm):
    model, x = network(norm), torch.randn(4, 3, 8, 8)
    before = model(x)
    fold_batch_norm(model)
    assert torch.allclose(model(x), before, atol=1e-5)
    assert torch.allclose(model.train()(x), before, atol=1e-5)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    assert any(isinstance(part, ChannelAffine) for part in model.modules())
    assert not list(model.buffers())


def test_statistics_of_the_batch_alone_are_refused():
    with pytest.raises(DpmixError, match="no running statistics"):
        fold_batch_norm(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False)))
