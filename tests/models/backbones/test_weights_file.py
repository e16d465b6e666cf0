"""A weights file fills the network to the last tensor, in every library, or is refused."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone

timm = pytest.importorskip("timm")
open_clip = pytest.importorskip("open_clip")
CPU = torch.device("cpu")
TINY_CLIP = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def tiny_clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "dpmix-tiny-clip.json"
    path.write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(path)


def _torchvision():
    from torchvision.models import get_model

    return get_model("shufflenet_v2_x0_5", weights=None)


# Backbone name -> the whole model, classifier included, and the classifier's name.
NETWORKS = {
    "timm:test_vit": (lambda: timm.create_model("test_vit", num_classes=5), "head."),
    "timm:test_resnet": (lambda: timm.create_model("test_resnet", num_classes=5), "fc."),
    "torchvision:shufflenet_v2_x0_5": (_torchvision, "fc."),
    "open_clip:dpmix-tiny-clip": (lambda: open_clip.create_model("dpmix-tiny-clip"), None),
}


@cache
def whole(name):
    torch.manual_seed(0)
    build, head = NETWORKS[name]
    state = build().state_dict()
    # Nothing at its first value, or a tensor that was left out could not be told.
    state = {k: v + 0.01 * torch.rand(v.shape) if v.is_floating_point() else v
             for k, v in state.items()}  # fmt: skip
    body = [key for key in state if head is None or not key.startswith(head)]
    return state, body


def load(name, state, folder, **options):
    path = Path(folder) / "weights.pth"
    torch.save(state, path)
    return load_backbone(name, CPU, weights=path, **options)


def edited(draw, name):
    """A file with one fault, and the name that the refusal must hold."""
    state, body = whole(name)
    edit = draw(st.sampled_from(["drop", "rename", "add", "reshape"]))
    if edit == "add":
        key = draw(st.sampled_from(["extra", "blocks.9.norm.weight", body[0] + "_more"]))
        return state | {key: torch.zeros(3)}, key
    # BatchNorm's counters are not read, and torch fills them in; a number alone has no shape. A
    # text may be of any length.
    free = "positional_embedding" if edit == "reshape" else None
    key = draw(st.sampled_from([k for k in body if state[k].ndim and k != free]))
    value, rest = state[key], {k: v for k, v in state.items() if k != key}
    if edit == "drop":
        return rest, key
    if edit == "rename":
        return rest | {draw(st.sampled_from(["vit.", "_module.", "x"])) + key: value}, key
    along = draw(st.integers(0, value.ndim - 1))
    return rest | {key: torch.cat([value, value.narrow(along, 0, 1)], along)}, key


@pytest.mark.parametrize("name", NETWORKS)
@settings(
    max_examples=6, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(data=st.data())
def test_one_fault_in_a_file_is_refused_in_one_line_that_names_it(name, tmp_path, data):
    state, key = edited(data.draw, name)
    with pytest.raises(DpmixError, match="can't be used") as refused:
        load(name, state, tmp_path)
    said = str(refused.value)
    assert key in said or "pos" in key  # these are resampled before they are compared
    assert len(said.splitlines()) == 1 and len(said) < 700


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_file_fills_the_backbone_whatever_its_classifier(name, tmp_path):
    state, body = whole(name)
    expected = load(name, state, tmp_path).weights_sha256
    assert load(name, {key: state[key] for key in body}, tmp_path).weights_sha256 == expected
    other = {k: v if k in body else torch.cat([v, v]) for k, v in state.items()}
    assert load(name, other, tmp_path).weights_sha256 == expected


def test_weights_that_are_not_finite_are_refused(tmp_path):
    name = "timm:test_resnet"
    state, body = whole(name)
    key = next(k for k in body if k.endswith("weight"))
    with pytest.raises(DpmixError, match=r"are not finite \('.+'\)"):
        load(name, state | {key: torch.full_like(state[key], float("nan"))}, tmp_path)


def test_positions_of_another_image_size_are_resampled_where_a_size_was_asked_for(tmp_path):
    larger = timm.create_model("test_vit", num_classes=5, img_size=192).state_dict()
    with pytest.raises(DpmixError, match=r"of another --backbone-size: 1 tensor\(s\) \(pos_embed"):
        load("timm:test_vit", larger, tmp_path)
    assert load("timm:test_vit", larger, tmp_path, input_size=160).module.input_size == 160


def test_a_file_that_is_not_the_networks_is_refused(tmp_path):
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("bad.safetensors", "bad.pth", "other.pth", "list.pth"):
        with pytest.raises(DpmixError, match=r"weights .*can't be used \(.{9,}\).*state_dict"):
            load_backbone("torchvision:resnet18", CPU, weights=tmp_path / name)
    with pytest.raises(DpmixError, match="no weights at"):
        load_backbone("torchvision:resnet18", CPU, weights=tmp_path / "gone.pth")
    with pytest.raises(DpmixError, match=r"has 4 weights files; expected one of"):
        load_backbone("torchvision:resnet18", CPU, weights=tmp_path)


def test_a_weights_file_can_not_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "was_here"), "w"))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(DpmixError, match="can't be used"):
        load_backbone("torchvision:resnet18", CPU, weights=tmp_path / "evil.pth")
    assert not (tmp_path / "was_here").exists()
