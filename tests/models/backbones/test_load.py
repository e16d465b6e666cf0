"""Backbones of each library: from a local file, from a folder, and what is said without one."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone

CPU = torch.device("cpu")
CLIP = "ViT-S-32-alt"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """Empty caches, and no network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    return tmp_path


def timm_model(classes=7):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=classes)


def save(model, path):
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, path)
    return path


def test_any_timm_model_from_a_file_whatever_classes_it_was_trained_on(tmp_path):
    model = timm_model(1000)
    path = save(model, tmp_path / "model.safetensors")
    for given in (path, tmp_path):
        backbone = load_backbone("timm:test_vit", CPU, weights=given)
        x = torch.randn(2, 3, 160, 160)
        expected = model.eval().forward_head(model.forward_features(x), pre_logits=True)
        with torch.inference_mode():
            assert torch.allclose(backbone.module(x), expected, atol=1e-5)
    assert backbone.embedding_size == 64
    assert backbone.module.input_size == 160
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
    torch.save(model.state_dict(), tmp_path / "mine.pth")
    backbone = load_backbone(
        "torchvision:resnet18", CPU, weights=tmp_path / "mine.pth", input_size=64
    )
    model.fc = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(backbone.module(x), model(x), rtol=1e-3, atol=1e-3)
    assert backbone.embedding_size == 512
    assert backbone.provenance == "torchvision resnet18, weights of a local file"


def test_an_image_tower_of_open_clip_from_a_file(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model(CLIP, pretrained=None, force_image_size=64)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    backbone = load_backbone(f"open_clip:{CLIP}", CPU, weights=tmp_path, input_size=64)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(backbone.module(x), model.eval().encode_image(x), atol=1e-4)
    assert backbone.embedding_size == 256
    assert backbone.normalization.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "timm:test_vit",
            r"no model of that name in the hub's local cache.*--download",
        ),
        ("open_clip:ViT-B-16/laion2b_s34b_b88k", r"laion/CLIP-ViT-B-16.*--download"),
        ("torchvision:resnet18", r"are not in '.*checkpoints'; give --download, or fetch http"),
        ("timm:test_vitt", "unknown timm model 'test_vitt': did you mean 'test_vit'"),
        ("timm:test_vit.none", "timm has no weights 'test_vit.none'"),
        ("torchvision:resnet17", "unknown torchvision classifier 'resnet17': did you mean"),
        ("torchvision:squeezenet1_0", "does not end in a linear layer"),
        ("open_clip:ViT-B-17/x", "unknown open_clip model 'ViT-B-17': did you mean 'ViT-B-16'"),
        ("open_clip:ViT-B-16/laion2b", r"names no weights of ViT-B-16: .*laion2b_s34b_b88k"),
        ("open_clip:ViT-B-16", "names no weights of ViT-B-16"),
        ("timn:test_vit", "unknown backbone 'timn:test_vit'"),
        ("timm:", "unknown backbone 'timm:'"),
    ],
)
def test_what_is_not_there_is_one_line_with_the_remedy(offline, name, message):
    for package in ("timm", "open_clip"):
        if name.startswith(package):
            pytest.importorskip(package)
    with pytest.raises(DpmixError, match=message) as error:
        load_backbone(name, CPU)
    assert len(str(error.value).splitlines()) == 1


def test_a_download_that_fails_is_one_line(offline, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(DpmixError, match=r"can't be fetched \(no route to host\)"):
        load_backbone("torchvision:resnet18", CPU, download=True)


def test_a_file_that_is_not_the_networks_is_refused(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("bad.safetensors", "bad.pth", "other.pth", "list.pth"):
        with pytest.raises(
            DpmixError, match=r"weights .*(can't be used \(.{9,}\)|do not fit).*state_dict"
        ):
            load_backbone("torchvision:resnet18", CPU, weights=tmp_path / name)
    with pytest.raises(DpmixError, match="no weights at"):
        load_backbone("torchvision:resnet18", CPU, weights=tmp_path / "gone.pth")
    with pytest.raises(DpmixError, match=r"has 3 weights files; expected one of"):
        (tmp_path / "bad.safetensors").unlink()
        load_backbone("torchvision:resnet18", CPU, weights=tmp_path)


def test_a_weights_file_can_not_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_here"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DpmixError, match="can't be used"):
        load_backbone("torchvision:resnet18", CPU, weights=tmp_path / "evil.pth")
    assert not (tmp_path / "was_here").exists()


def test_a_built_in_backbone_takes_no_file(tmp_path):
    with pytest.raises(DpmixError, match="has its own weights or none"):
        load_backbone("scatternet", CPU, weights=tmp_path)


def test_sizes_that_can_not_be_are_refused():
    with pytest.raises(DpmixError, match="scatternet at 30 pixels: expected a multiple of 4"):
        load_backbone("scatternet", CPU, input_size=30)
    pytest.importorskip("timm")
    with pytest.raises(DpmixError, match=r"takes no image of 3 pixels .*--backbone-size"):
        load_backbone("torchvision:alexnet", CPU, pretrained=False, input_size=3)


@pytest.mark.parametrize(
    ("package", "name"),
    [("timm", "timm:test_vit"), ("open_clip", "open_clip:ViT-B-16/x")],
)
def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch, package, name):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DpmixError, match=r"pip install 'dp-mix-images\[backbones\]'"):
        load_backbone(name, CPU)


def test_other_weights_are_another_identity():
    same = [load_backbone("random-conv", CPU).weights_sha256 for _ in range(2)]
    assert same[0] == same[1]
    assert load_backbone("random-conv", CPU, input_size=28).weights_sha256 != same[0]
    torch.manual_seed(1)
    one = load_backbone("torchvision:resnet18", CPU, pretrained=False, input_size=32)
    two = load_backbone("torchvision:resnet18", CPU, pretrained=False, input_size=32)
    assert one.weights_sha256 != two.weights_sha256
