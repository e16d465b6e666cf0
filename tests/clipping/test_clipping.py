"""Both engines against a brute-force loop over single views, on the models that people use.

Brute force: the gradient of every view by itself, in float64, averaged, clipped and summed by hand.
"""

import copy
import logging
import math

import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.ops import StochasticDepth

from dpmix.clipping.engine import clipped_gradient_sum, sum_by
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.errors import DpmixError
from dpmix.models import build_model

L = 4
GROUPS, K = 3, 4


def wrn():
    return build_model("wrn-16-4", in_channels=3, num_classes=L)


def vit():
    model = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=L,
    )  # fmt: skip
    nn.init.normal_(model.heads.head.weight)  # zeros would hide everything before them
    return model


def convnext():
    return nn.Sequential(
        nn.Conv2d(3, 8, 2, stride=2),
        CNBlock(8, layer_scale=1.0, stochastic_depth_prob=0.0),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, L),
    )


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.GELU(), nn.Linear(16, L))


MODELS = {"wrn-16-4": wrn, "vit": vit, "convnext": convnext, "mlp": mlp}
ENGINES = ("examplewise", "vectorized")


def built(name):
    torch.manual_seed(0)
    return MODELS[name]()


def batch(dtype=torch.float64, groups=GROUPS, views=K):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(groups, views, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.rand(groups, views, L, generator=generator, dtype=torch.float64)
    return images.to(dtype), (labels / labels.sum(-1, keepdim=True)).to(dtype)


def flat(gradients):
    return torch.cat([gradient.flatten() for gradient in gradients])


def brute_force(model, views, labels):
    """[G, P]: each group's mean of single-view gradients."""
    model = copy.deepcopy(model).double()
    rows = []
    for group, group_labels in zip(views.double(), labels.double(), strict=True):
        single = []
        for view, label in zip(group, group_labels, strict=True):
            loss = -(label * model(view[None])[0].log_softmax(0)).sum()
            single.append(flat(torch.autograd.grad(loss, list(model.parameters()))))
        rows.append(torch.stack(single).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", MODELS)
def test_both_engines_agree_with_brute_force(name, engine, dtype, tolerance):
    model = built(name)
    views, labels = batch()
    rows = brute_force(model, views, labels)
    norms = rows.norm(dim=1)
    c = norms.sort().values[1].item() * 1.001  # the longest gradient is clipped, two are not
    expected = (rows * (c / norms).clamp(max=1)[:, None]).sum(0)
    result = sum_by(
        engine, model.to(dtype), soft_cross_entropy, views.to(dtype), labels.to(dtype), c,
        example_chunk=GROUPS,
    )  # fmt: skip
    assert result.engine == engine
    assert (flat(result.gradients).double() - expected).norm() <= tolerance * expected.norm()
    assert torch.allclose(result.norms.double(), norms, rtol=tolerance)
    logits = model(views.to(dtype).flatten(0, 1)).log_softmax(-1)
    losses = -(labels.to(dtype).flatten(0, 1) * logits).sum(-1).view(GROUPS, K).mean(1)
    assert torch.allclose(result.losses, losses, rtol=max(tolerance, 1e-9))


@pytest.mark.parametrize("chunk", [1, 2, 3, 5])
@pytest.mark.parametrize("engine", ENGINES)
def test_chunks_change_nothing_but_memory(engine, chunk):
    model = built("convnext").double()
    name = "example_chunk" if engine == "vectorized" else "view_chunk"
    whole, parts = (
        sum_by(engine, model, soft_cross_entropy, *batch(), 0.5, **how)
        for how in ({}, {name: chunk})
    )
    assert torch.allclose(flat(whole.gradients), flat(parts.gradients), rtol=1e-12, atol=1e-14)
    assert torch.allclose(whole.losses, parts.losses, rtol=1e-12)


@pytest.mark.parametrize(
    ("engine", "layer"),
    [
        ("examplewise", nn.Dropout(0.5)),
        ("vectorized", nn.Dropout(0.5)),
        ("examplewise", StochasticDepth(0.5, "row")),
        ("auto", StochasticDepth(0.5, "row")),
    ],
    ids=str,
)
def test_dropout_and_stochastic_depth_take_fresh_coins_for_every_view_and_example(engine, layer):
    """Equal views everywhere: with draws shared between examples all norms would be equal."""
    model = nn.Sequential(nn.Flatten(), layer, nn.Linear(192, L)).double().train()
    views = torch.ones(30, 1, 3, 8, 8, dtype=torch.float64)
    labels = torch.eye(L, dtype=torch.float64)[torch.zeros(30, 1, dtype=torch.int64)]
    torch.manual_seed(0)

    def norms(some_views, some_labels):
        result = clipped_gradient_sum(
            model, soft_cross_entropy, some_views, some_labels, 1.0, engine=engine
        )
        return result.norms

    across = norms(views, labels)
    assert across.unique().numel() > 1
    assert not torch.equal(across, norms(views, labels)), "random draws are fresh at every call"
    # The views of one example have random draws of their own: their mean is not any single one's.
    inside = norms(views.transpose(0, 1), labels.transpose(0, 1))
    assert (inside[0] - across).abs().min() > 1e-9


@pytest.mark.parametrize("engine", ENGINES)
def test_dropout_stays_inside_one_example(engine):
    """A change to example 1 leaves the clipped gradient of example 0, under the same draws."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, L)).double().train()
    views, labels = batch(groups=2)
    other = views.clone()
    other[1] = -3 * other[1]
    norms = []
    for some in (views, other):
        torch.manual_seed(5)
        result = clipped_gradient_sum(model, soft_cross_entropy, some, labels, 1.0, engine=engine)
        norms.append(result.norms)
    assert norms[0][0] == norms[1][0]
    assert norms[0][1] != norms[1][1]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_infinite_norm_leaves_gradients_unclipped(engine):
    model = built("mlp").double()
    views, labels = batch()
    result = clipped_gradient_sum(model, soft_cross_entropy, views, labels, math.inf, engine=engine)
    expected = brute_force(model, views, labels).sum(0)
    assert torch.allclose(flat(result.gradients), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("engine", ENGINES)
def test_no_groups_sum_to_zero(engine):
    views, labels = batch(groups=0)
    model = built("mlp").double()
    result = clipped_gradient_sum(model, soft_cross_entropy, views, labels, 1.0, engine=engine)
    assert flat(result.gradients).abs().sum() == 0
    assert len(result.norms) == len(result.losses) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_frozen_parameters_get_no_gradient_and_unused_ones_zero(engine):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, L)).double()
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    model.forward = lambda x: model[2](model[1](model[0](x)))
    model[1].requires_grad_(False)
    result = clipped_gradient_sum(model, soft_cross_entropy, *batch(), 1.0, engine=engine)
    shapes = {tuple(gradient.shape) for gradient in result.gradients}
    assert shapes == {(3,), (L, 8), (L,)}
    assert result.gradients[0].abs().sum() == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_is_summed_in_float64(engine):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, L)).bfloat16()
    views, labels = batch(torch.bfloat16, groups=1)
    views, labels = views.expand(600, -1, -1, -1, -1), labels.expand(600, -1, -1)
    result = clipped_gradient_sum(model, soft_cross_entropy, views, labels, 1.0, engine=engine)
    assert {gradient.dtype for gradient in result.gradients} == {torch.float64}
    # 600 equal gradients of norm C: a bfloat16 sum would stand still at 256 of them.
    assert flat(result.gradients).norm().item() == pytest.approx(600, rel=1e-3)


@pytest.mark.parametrize(
    ("model", "views", "engine", "reason"),
    [
        ("mlp", 34, "vectorized", "all in linear layers"),
        ("convnext", 2, "vectorized", "K = 2 views leave the hardware idle"),
        ("convnext", 34, "examplewise", "K = 34 views of one example fill the hardware"),
        ("wrn-16-4", 1, "examplewise", "one gradient at a time saves memory"),
    ],
)
def test_auto_picks_by_k_and_size_and_logs_why(caplog, model, views, engine, reason):
    images, labels = batch(torch.float32, groups=1, views=views)
    with caplog.at_level(logging.DEBUG, logger="dpmix.clipping.engine"):
        result = clipped_gradient_sum(built(model), soft_cross_entropy, images, labels, 1.0)
    assert result.engine == engine
    assert f"engine {engine}" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loss_that_is_already_a_mean_is_refused(engine):
    def averaged(logits, labels):
        return soft_cross_entropy(logits, labels).mean()

    with pytest.raises(DpmixError, match=r"returned shape \[\] for 4 views.*reduction='none'"):
        clipped_gradient_sum(built("mlp").double(), averaged, *batch(), 1.0, engine=engine)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "examplwise"}, "unknown engine 'examplwise': did you mean 'examplewise'"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0; expected above 0"),
        ({"max_grad_norm": math.nan}, "max_grad_norm is nan; expected above 0"),
        ({"labels": torch.ones(GROUPS, K + 1, L)}, "the same G and the same K"),
        ({"views": torch.ones(GROUPS, 0, 3, 8, 8), "labels": torch.ones(GROUPS, 0, L)}, "K of 1"),
        ({"model": nn.Sequential(nn.Flatten())}, "no trainable parameter"),
    ],
)
def test_what_cannot_be_meant_is_refused(changes, message):
    views, labels = batch()
    settings = {
        "model": built("mlp"), "views": views, "labels": labels, "max_grad_norm": 1.0,
        "engine": "auto",
    }  # fmt: skip
    with pytest.raises(DpmixError, match=message):
        clipped_gradient_sum(loss=soft_cross_entropy, **settings | changes)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("engine", ENGINES)
def test_cuda_sums_as_the_cpu_does(engine):
    model = built("convnext").double()
    on_cpu = clipped_gradient_sum(model, soft_cross_entropy, *batch(), 0.5, engine=engine)
    moved = [tensor.cuda() for tensor in batch()]
    on_cuda = clipped_gradient_sum(model.cuda(), soft_cross_entropy, *moved, 0.5, engine=engine)
    assert torch.allclose(flat(on_cuda.gradients).cpu(), flat(on_cpu.gradients), rtol=1e-9)
