"""Which weights of a backbone train, in networks of each kind."""

import pytest
import torch
from torch import nn

from dpmix.clipping.engine import clipped_gradient_sum
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.clipping.model_check import check_private
from dpmix.errors import DpmixError
from dpmix.models import parameter_count
from dpmix.models.backbones.backbone import Embedder, fold_batch_norm
from dpmix.models.finetune import TRAINABLE, choose_trainable
from dpmix.models.head import BackboneClassifier, LinearHead, public_names, trained_state

SIZE = 32


def vit():
    from torchvision.models import VisionTransformer

    tower = VisionTransformer(SIZE, 4, 3, 2, 48, 192)
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


HEAD = {"head.linear.weight", "head.linear.bias"}


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_the_head_alone(kind):
    model = classifier(kind)
    choose_trainable(model, "head")
    assert trained(model) == HEAD


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
    expected = ("backbone.body.encoder.layers.encoder_layer_2.", "backbone.body.encoder.ln.")
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


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("what", TRAINABLE)
def test_every_choice_passes_the_check_and_both_engines_agree(kind, what):
    if what == "lora":
        pytest.importorskip("peft")
        if kind == "resnet":
            kind = "vit"
    model = classifier(kind)
    choose_trainable(model, what, lora_rank=2)
    if kind == "vit" or what == "head":
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


def test_what_can_not_be_meant_is_refused(unchecked):
    with pytest.raises(DpmixError, match="trainable is 'heads': did you mean 'head'"):
        choose_trainable(classifier("vit"), "heads")
    with pytest.raises(DpmixError, match=r"last_blocks is 9; this backbone has 3 blocks"):
        choose_trainable(classifier("vit"), "last-blocks", last_blocks=9)
    fixed = BackboneClassifier(Embedder(nn.Flatten(), 2), LinearHead(12, 4))
    with pytest.raises(DpmixError, match="has no weights to train"):
        choose_trainable(fixed, "all")
    model = classifier("resnet")
    plain = BackboneClassifier(
        Embedder(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), 3), model.head
    )
    with pytest.raises(DpmixError, match="no attention or MLP layers"):
        choose_trainable(plain, "lora")


def test_a_runs_file_holds_what_trained_and_no_frozen_weight():
    model = classifier("resnet")
    choose_trainable(model, "head")
    assert set(trained_state(model, model.state_dict())) == HEAD
    choose_trainable(model, "norm-and-bias")
    assert set(trained_state(model, model.state_dict())) == trained(model)
    assert public_names(nn.Linear(2, 2)) == set()
