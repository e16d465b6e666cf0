"""Which weights of a backbone train, in networks of each kind, and which layers stay frozen."""

import pytest
import torch
from torch import nn

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.clipping.model_check import check_private
from dpmix.errors import DpmixError
from dpmix.models import parameter_count
from dpmix.models.backbones.backbone import Embedder, fold_batch_norm
from dpmix.models.finetune import (
    PlainAttention,
    choose_trainable,
    frozen_modules,
    open_attention,
    train_mode,
)
from dpmix.models.head import BackboneClassifier, LinearHead, public_names, trained_state

SIZE = 16
HEAD = {"head.linear.weight", "head.linear.bias"}


def vit():
    from torchvision.models import VisionTransformer

    tower = VisionTransformer(SIZE, 4, 2, 2, 48, 192)
    tower.heads = nn.Identity()
    return tower, 48


def resnet():
    from torchvision.models import resnet18

    tower = resnet18(weights=None)
    tower.fc = nn.Identity()
    fold_batch_norm(tower)
    return tower, 512


def classifier(kind):
    torch.manual_seed(0)
    tower, features = {"vit": vit, "resnet": resnet}[kind]()
    embedder = Embedder(tower, SIZE)
    embedder.requires_grad_(False).eval()
    return BackboneClassifier(embedder, LinearHead(features, 4))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_runs_file_holds_what_trained_and_no_frozen_weight(kind):
    model = classifier(kind)
    choose_trainable(model, "head")
    assert trained(model) == HEAD == set(trained_state(model, model.state_dict()))
    choose_trainable(model, "norm-and-bias")
    assert HEAD < set(trained_state(model, model.state_dict())) == trained(model)
    assert public_names(nn.Linear(2, 2)) == set()


def test_norms_and_biases():
    model = classifier("vit")
    choose_trainable(model, "norm-and-bias")
    names = trained(model) - HEAD
    assert all(n.endswith(("bias", "ln.weight", "ln_1.weight", "ln_2.weight")) for n in names)
    assert "backbone.body.encoder.layers.encoder_layer_0.ln_1.weight" in names
    model = classifier("resnet")
    choose_trainable(model, "norm-and-bias")
    assert {"backbone.body.bn1.weight", "backbone.body.bn1.bias"} <= trained(model)
    assert "backbone.body.conv1.weight" not in trained(model)


def test_the_last_blocks_and_what_follows_them():
    model = classifier("vit")
    choose_trainable(model, "last-blocks", last_blocks=1)
    names = trained(model) - HEAD
    expected = ("backbone.body.encoder.layers.encoder_layer_1.", "backbone.body.encoder.ln.")
    assert names and all(n.startswith(expected) for n in names)
    assert {n.startswith(expected[1]) for n in names} == {True, False}
    model = classifier("resnet")
    choose_trainable(model, "last-blocks", last_blocks=2)
    names = trained(model) - HEAD
    assert all(n.startswith(("backbone.body.layer3.", "backbone.body.layer4.")) for n in names)


def test_lora_starts_where_the_backbone_stands_and_trains_little():
    pytest.importorskip("peft")
    model = classifier("vit")
    x = torch.randn(2, 3, SIZE, SIZE)
    before = model.backbone(x)
    whole = sum(p.numel() for p in model.parameters())
    choose_trainable(model, "lora", lora_rank=2)
    assert torch.allclose(model.backbone(x), before, atol=1e-5)
    assert all("lora_" in name for name in trained(model) - HEAD)
    assert any("query" in name for name in trained(model))
    assert parameter_count(model) < whole / 5


@pytest.mark.parametrize(("kind", "what"), [("vit", "lora"), ("resnet", "head")])
def test_every_choice_passes_the_check_and_the_engines_agree(kind, what):
    if what == "lora":
        pytest.importorskip("peft")
    model = classifier(kind)
    choose_trainable(model, what, lora_rank=2)
    check_private(model, (3, SIZE, SIZE))
    views, labels = torch.randn(2, 2, 3, SIZE, SIZE), torch.full((2, 2, 4), 0.25)
    labels[..., 0] += 1
    with torch.no_grad():
        model.head.linear.weight.normal_()
    sums = [
        clipped_gradient_sum(model, soft_cross_entropy, views, labels, 0.7, engine=engine).gradients
        for engine in ("examplewise", "vectorized", *(["linear"] if what == "head" else []))
    ]
    assert len(sums[0]) == len(trained(model))
    for other in sums[1:]:
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(sums[0], other, strict=True))


def test_what_can_not_be_meant_is_refused():
    with pytest.raises(DpmixError, match=r"last_blocks is 9; this backbone has 2 blocks"):
        choose_trainable(classifier("vit"), "last-blocks", last_blocks=9)
    fixed = BackboneClassifier(Embedder(nn.Flatten(), 2), LinearHead(12, 4))
    with pytest.raises(DpmixError, match="has no weights to train"):
        choose_trainable(fixed, "all")
    pytest.importorskip("peft")
    plain = Embedder(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), 3)
    with pytest.raises(DpmixError, match="no attention or MLP layers"):
        choose_trainable(BackboneClassifier(plain, LinearHead(4, 4)), "lora")
    with pytest.raises(DpmixError, match=r"layer 'a\.b' .*norm-and-bias"):
        PlainAttention(nn.MultiheadAttention(8, 2, add_zero_attn=True), "a.b")


@pytest.mark.parametrize("masked", [True, False])
def test_plain_attention_gives_what_torchs_layer_gives(masked):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(16, 4, 0.0, batch_first=True)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3)
    holder, x = nn.ModuleDict({"attn": layer}), torch.randn(5, 5, 16)
    mask = torch.full((5, 5), float("-inf")).triu(1) if masked else None
    expected = layer(x, x, x, need_weights=False, attn_mask=mask)[0]
    open_attention(holder)
    assert isinstance(holder["attn"], PlainAttention)
    got = holder["attn"](x, x, x, need_weights=False, attn_mask=mask)[0]
    assert torch.allclose(got, expected, atol=1e-5)


def test_frozen_layers_stay_in_eval_and_all_others_wake():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    model = nn.Sequential(backbone, nn.Dropout(), nn.Linear(4, 2))
    backbone.requires_grad_(False)
    model.eval()
    train_mode(model)
    assert not any(module.training for module in backbone.modules())
    assert model.training and model[1].training and model[2].training
    backbone(torch.randn(8, 3, 5, 5) + 5)
    assert (backbone[1].running_mean == 0).all()


def test_what_is_not_frozen():
    awake = {
        "no parameter: it must wake after an evaluation": nn.Dropout().eval(),
        "buffers only, likewise": nn.BatchNorm1d(3, affine=False).eval(),
        "it would be trained": nn.BatchNorm1d(3).eval(),
        "it would update its mean": nn.BatchNorm1d(3).requires_grad_(False),
    }
    assert [why for why, module in awake.items() if frozen_modules(module)] == []


def test_a_layer_that_was_left_awake_inside_a_frozen_one_stays_awake():
    backbone = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).requires_grad_(False).eval()
    backbone[1].train()
    model = nn.Sequential(backbone, nn.Linear(3, 2))
    assert frozen_modules(model) == {backbone, backbone[0]}
    train_mode(model)
    assert backbone[1].training and not backbone[0].training
