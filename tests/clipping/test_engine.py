"""The engines against a brute-force loop over single views, and the rule that picks one.

Brute force: the gradient of every view by itself, in float64, averaged, clipped and summed by hand.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.models.vision_transformer import VisionTransformer
from torchvision.ops import StochasticDepth

from dpmix.clipping.engine import (
    choose_engine,
    clipped_gradient_sum,
    engine_by_rule,
    sum_by,
)
from dpmix.clipping.types import EngineConfig, soft_cross_entropy
from dpmix.errors import DpmixError
from dpmix.models import build_model
from dpmix.models.head import LinearHead

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
        chunk=GROUPS if engine == "vectorized" else None,
    )  # fmt: skip
    assert result.engine == engine
    assert (flat(result.gradients).double() - expected).norm() <= tolerance * expected.norm()
    assert torch.allclose(result.norms.double(), norms, rtol=tolerance)
    logits = model(views.to(dtype).flatten(0, 1)).log_softmax(-1)
    losses = -(labels.to(dtype).flatten(0, 1) * logits).sum(-1).view(GROUPS, K).mean(1)
    assert torch.allclose(result.losses, losses, rtol=max(tolerance, 1e-9))


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
def test_dropout_and_stochastic_depth_draw_afresh_for_every_view_and_example(engine, layer):
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
    ("build", "views", "engine", "reason"),
    [
        (lambda: LinearHead(6, 3), 3, "linear", "one linear layer"),
        (mlp, 34, "vectorized", "nearly all in linear layers"),
        (lambda: nn.TransformerEncoderLayer(16, 2, 32), 34, "vectorized", "nearly all in linear"),
        (lambda: nn.Linear(4100, 4100), 1, "examplewise", "one gradient at a time saves memory"),
        (lambda: nn.Sequential(nn.Linear(1100, 1100).requires_grad_(False), nn.Linear(1100, 2)), 1,
         "examplewise", "frozen parameters"),
        (wrn, 1, "vectorized", "K = 1 views leave"),
        (wrn, 15, "vectorized", "K = 15 views leave"),
        (wrn, 16, "examplewise", "K = 16 views of one unit fill"),
        (convnext, 1, "vectorized", "K = 1 views leave"),
        (convnext, 5, "examplewise", "K = 5 views of one unit fill"),  # grouped convolutions
    ],
)  # fmt: skip
def test_the_rule_goes_by_k_and_the_model_and_says_why(build, views, engine, reason):
    picked, why = engine_by_rule(build(), views)
    assert picked == engine and reason in why


def test_auto_is_the_rule_for_a_sum_and_for_a_run():
    model = built("mlp")
    result = clipped_gradient_sum(model, soft_cross_entropy, *batch(torch.float32), 1.0)
    assert result.engine == "vectorized"
    run = choose_engine("auto", model, soft_cross_entropy, (3, 8, 8), K)
    assert (run.name, run.view_chunk) == ("vectorized", None) and "linear layers" in run.reason
    # No other engine takes a unit's views in parts.
    bounded = choose_engine("auto", model, soft_cross_entropy, (3, 8, 8), K, 2)
    assert (bounded.name, bounded.view_chunk) == ("examplewise", 2)
    asked = choose_engine("examplewise", model, soft_cross_entropy, (3, 8, 8), K, 2)
    assert asked == EngineConfig("examplewise", 2, "as requested")
    assert str(asked) == "examplewise, 2 views at a time"


@pytest.mark.parametrize(("views", "engine"), [(13, "vectorized"), (14, "examplewise")])
def test_auto_holds_the_activations_of_one_unit_where_its_views_are_large(views, engine):
    model = nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 3))
    run = choose_engine("auto", model, soft_cross_entropy, (3, 224, 224), views)
    assert run.name == engine


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


class TwoBiases(nn.Module):
    """Adds up two parameters: autograd may hand out one gradient tensor for both."""

    def __init__(self):
        super().__init__()
        self.first = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.second = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) * (self.first + self.second)


@pytest.mark.parametrize("c", [1e-3, math.inf])
def test_parameters_that_share_a_gradient_tensor_are_not_added_twice(c):
    model = TwoBiases()
    views = torch.tensor([[[[[1.0, 2.0]]], [[[3.0, 1.0]]]]], dtype=torch.float64)
    labels = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]], dtype=torch.float64)
    result = clipped_gradient_sum(
        model, soft_cross_entropy, views, labels, c, engine="examplewise", view_chunk=1
    )
    # By hand: softmax of zeros is (1/2, 1/2), so each view's gradient is x * (-1/2, 1/2).
    gradient = torch.tensor([-1.0, 0.75], dtype=torch.float64)
    norm = (2 * gradient.square().sum()).sqrt()
    assert result.norms[0] == pytest.approx(norm.item())
    for part in result.gradients:
        assert torch.allclose(part, gradient * min(1.0, c / norm.item()))


class Branching(nn.Module):
    """Looks at a value of its input, which vmap forbids."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(x) if x.sum().item() > 0 else self.linear(-x)


def test_a_model_that_vmap_cannot_run_names_the_other_engine():
    given = soft_cross_entropy, torch.ones(2, 3, 1, 2, 2), torch.full((2, 3, 2), 0.5), 1.0
    with pytest.raises(DpmixError, match=r"cannot run this model.*use engine 'examplewise'"):
        clipped_gradient_sum(Branching(), *given, engine="vectorized")
    assert clipped_gradient_sum(Branching(), *given).engine == "examplewise"
