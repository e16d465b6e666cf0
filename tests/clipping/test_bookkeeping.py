"""Engine `bookkeeping` against brute force, what it refuses, and planted errors."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.convnext import CNBlock

from dpmix.clipping import bookkeeping, layer_rules
from dpmix.clipping.bookkeeping import bookkeeping_sum, require_equal
from dpmix.clipping.engine import clipped_gradient_sum, engine_by_rule, engine_that_runs, sum_by
from dpmix.clipping.types import CannotRunError, soft_cross_entropy
from dpmix.models import build_model
from dpmix.models.wide_resnet import WSConv2d

L, UNITS, K = 4, 3, 2


def vit():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2,
        num_classes=L, init_values=0.5,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))  # zeros would hide what is behind
    return model


def convolutions():
    """Strides, paddings, dilation and groups; with and without bias."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=2, dilation=2), nn.GroupNorm(2, 8), nn.ReLU(),
        nn.Conv2d(8, 8, (3, 2), stride=(2, 1), groups=4, bias=False), nn.GELU(),
        nn.Conv2d(8, 6, 1), nn.Flatten(2), nn.LayerNorm((6, 21)), nn.Flatten(),
        nn.Linear(126, 5), nn.Tanh(), nn.Linear(5, L, bias=False),
    )  # fmt: skip


class Embedded(nn.Module):
    """An embedding of indices that are made from each view."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 6, padding_idx=0)
        self.head = nn.Linear(6, L)

    def forward(self, x):
        return self.head(self.table((x.flatten(1) * 7).long().abs() % 5).tanh().sum(dim=1))


class Partly(nn.Module):
    """Frozen weights beside trained biases, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(192, 9), nn.Linear(9, L)
        self.unused, self.norm = nn.Linear(3, 3), nn.LayerNorm(9)
        self.one.weight.requires_grad_(False)
        self.norm.bias.requires_grad_(False)

    def forward(self, x):
        return self.two(self.norm(self.one(x.flatten(1)).sigmoid()))


def standardized():
    """Weight standardisation; one channel's weight is at the floor of its norm."""
    model = build_model("cnn-small", in_channels=3, num_classes=L)
    first = next(module for module in model.modules() if isinstance(module, WSConv2d))
    with torch.no_grad():
        first.weight[0] *= 1e-4
        for parameter in model.parameters():
            parameter.add_(1e-6 * torch.randn(parameter.shape))
    return model


class InPlace(nn.Module):
    """Activations and sums that change a layer's output, and a layer that nothing depends on."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 5, 3, padding=1)
        self.dead, self.head = nn.Linear(5, 5), nn.Linear(5, L)

    def forward(self, x):
        x = self.one(x).relu_()
        y = self.two(x)
        y += x
        pooled = nn.functional.relu_(y).mean(dim=(2, 3))
        self.dead(pooled)
        return self.head(pooled)


MODELS = {
    "standardized": standardized,
    "in place": InPlace,
    "vit": vit,
    "convolutions": convolutions,
    "embedded": Embedded,
    "partly": Partly,
}


def built(name, dtype=torch.float64):
    torch.manual_seed(0)
    return MODELS[name]().to(dtype)


def batch(dtype=torch.float64, groups=UNITS, views=K):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(groups, views, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.rand(groups, views, L, generator=generator, dtype=torch.float64)
    return images.to(dtype), (labels / labels.sum(-1, keepdim=True)).to(dtype)


def flat(total):
    return torch.cat([gradient.flatten() for gradient in total.gradients]).double()


def brute_force(model, views, labels, max_grad_norm):
    """Each group's gradient by an ordinary backward pass, clipped and added by hand."""
    model = copy.deepcopy(model).double()
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = []
    for group, targets in zip(views.double(), labels.double(), strict=True):
        loss = soft_cross_entropy(model(group), targets).mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten() for g in grads]))
    norms = torch.stack(rows).norm(dim=1)
    factors = (max_grad_norm / norms).clamp(max=1)
    return (torch.stack(rows) * factors[:, None]).sum(0), norms


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("views", [1, 2, 5])
@pytest.mark.parametrize("name", MODELS)
def test_it_agrees_with_brute_force(name, views, dtype, tolerance):
    given, labels = batch(views=views)
    model = built(name)
    _, norms = brute_force(model, given, labels, 1.0)
    c = float(norms.median())
    expected, _ = brute_force(model, given, labels, c)
    model, given, labels = model.to(dtype), given.to(dtype), labels.to(dtype)
    for units in (UNITS, 2, 7):  # all at once, the last portion filled up, and none full
        total = bookkeeping_sum(model, soft_cross_entropy, given, labels, c, units)
        assert (flat(total) - expected).norm() <= tolerance * c
        assert torch.allclose(total.norms, norms, rtol=tolerance)


def test_inner_products_and_written_gradients_have_the_same_norm(monkeypatch):
    layer = nn.Linear(40, 30)
    inputs, grads = torch.randn(12, 5, 40), torch.randn(12, 5, 30)
    found = []
    for wide in (0, 1e9):
        monkeypatch.setattr(layer_rules, "_WIDE", wide)
        found.append(layer_rules.PRODUCT.squares(layer, inputs, grads, 6))
    assert torch.allclose(*found, rtol=1e-5)


@pytest.mark.parametrize("views", [1, 2, 5, 8])
def test_it_runs_where_it_was_asked_for_and_auto_never_chooses_it(views):
    """With five views and more, the norms of a layer are written one by one."""
    model = built("vit", torch.float32)
    given = batch(torch.float32, views=views)
    assert engine_that_runs("bookkeeping", model, soft_cross_entropy, *given)[0] == "bookkeeping"
    assert all(engine_by_rule(model, k)[0] != "bookkeeping" for k in (1, 4, 16, 64))


@pytest.mark.parametrize(("model", "said"), [
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 2), CNBlock(8, 1.0, 0.0), nn.AdaptiveAvgPool2d(1),
                           nn.Flatten(), nn.Linear(8, L)), "layer '1'"),
    (lambda: nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.Flatten(),
                           nn.Linear(512, L)), "its padding is not a number of zeros"),
    (lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, L)), "dropout"),
], ids=["bare scale", "padding", "dropout"])  # fmt: skip
def test_a_layer_without_a_rule_is_named(model, said):
    with pytest.raises(CannotRunError, match=said) as raised:
        clipped_gradient_sum(
            model(), soft_cross_entropy, *batch(torch.float32), 1.0, engine="bookkeeping"
        )
    assert "use engine 'examplewise'" in str(raised.value)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(192, 192), nn.Linear(192, L)

    def forward(self, x):
        return self.head(self.layer(self.layer(x.flatten(1)).tanh()))


class TokensFirst(Twice):
    """Its layer sees [T, V, 64]: where T is V by chance, rows look like views."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 192)

    def forward(self, x):
        tokens = x.flatten(1).unflatten(1, (6, 32)).transpose(0, 1)
        return self.head(self.layer(tokens).tanh().mean(dim=0))


class Tied(Twice):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(192, 192)
        self.other.weight = self.layer.weight

    def forward(self, x):
        return self.head(self.other(self.layer(x.flatten(1)).tanh()))


class Functional(Twice):
    """Its layer's weight is used, the layer is not called."""

    def forward(self, x):
        return self.head(nn.functional.linear(x.flatten(1), self.layer.weight).tanh())


@pytest.mark.parametrize("model", [Twice, TokensFirst, Tied, Functional])
def test_a_layer_that_is_used_otherwise_is_refused(model):
    """With three units of two views, the six tokens look like views."""
    with pytest.raises(
        CannotRunError, match=r"used twice|not on all views|does not compute|shares a"
    ):
        require_equal(model(), soft_cross_entropy, *batch())


def wrong(rule, name, change):
    def written(*given):
        made = dict(sound(*given))
        made[name] = change(made[name])
        return made

    sound = rule.written
    return written


@pytest.mark.parametrize(("name", "layer", "parameter", "change"), [
    ("standardized", WSConv2d, "gain", lambda rows: rows * 1.01),
    ("convolutions", nn.Conv2d, "weight", lambda rows: rows * 1.01),
    ("convolutions", nn.Conv2d, "bias", torch.zeros_like),
    ("convolutions", nn.LayerNorm, "weight", lambda rows: rows.roll(1, 0)),
    ("convolutions", nn.GroupNorm, "bias", lambda rows: rows.mean(0).expand_as(rows)),
    ("partly", nn.Linear, "bias", lambda rows: -rows),
])  # fmt: skip
def test_a_wrong_rule_is_caught_at_the_start(monkeypatch, name, layer, parameter, change):
    rule = layer_rules.RULES[layer]
    monkeypatch.setattr(rule, "written", wrong(rule, parameter, change))
    with pytest.raises(CannotRunError, match="does not compute"):
        require_equal(built(name), soft_cross_entropy, *batch())


def cancelling(views, apart, seed):
    generator = torch.Generator().manual_seed(seed)
    one = 1e7 * torch.randn(256, generator=generator)
    rows = one * (1 + apart * torch.randn(views, 256, generator=generator))
    signs = torch.tensor([1.0, -1.0]).repeat(views // 2)
    labels = 1 / 32 + signs[:, None] * 0.1 * torch.randn(32, generator=generator)
    return rows[None], labels[None]


def zero_head():
    head = nn.Linear(256, 32)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([2, 8, 64]), st.floats(-9, 0), st.integers(0, 99))
def test_a_unit_whose_views_cancel_adds_at_most_c(views, apart, seed):
    given = cancelling(views, 10.0**apart, seed)
    total = sum_by("bookkeeping", zero_head(), soft_cross_entropy, *given, 1.0)
    assert flat(total).norm() <= 1 + 1e-4


class Mirrored(nn.Module):
    """A head that reads one feature of the mean over tokens."""

    def __init__(self, width=64):
        super().__init__()
        self.layer, self.head = nn.Linear(width, width), nn.Linear(width, L, bias=False)
        nn.init.zeros_(self.head.weight)
        self.head.weight.data[:, 0] = torch.tensor([1.0, -1.0, 0.5, 0.2]) * 30
        self.head.weight.requires_grad_(False)

    def forward(self, x):
        return self.head(nn.functional.gelu(self.layer(x)).mean(1))


@pytest.mark.parametrize(("views", "tokens", "groups"), [(1, 196, 16), (8, 128, 4), (16, 256, 3)])
def test_units_of_many_rows_that_cancel_move_the_sum_by_at_most_c(views, tokens, groups):
    """The second half of a unit's tokens nearly cancels the first."""
    torch.manual_seed(0)
    model, worst = Mirrored(), 0.0
    half = torch.randn(groups, views, tokens // 2, 64)
    x = torch.cat([half, -half * (1 + 1e-3 * torch.randn_like(half))], dim=2)
    labels = torch.rand(groups, views, L).softmax(-1)
    for c in (1e-4, 1e-2):
        whole, rest = (
            flat(sum_by("bookkeeping", model, soft_cross_entropy, x[k:], labels[k:], c))
            for k in (0, 1)
        )
        worst = max(worst, float((whole - rest).norm()) / c)
    assert worst <= 1 + 1e-4


def test_half_precision_and_compiled_parts_are_refused():
    model, given = nn.Sequential(nn.Flatten(), nn.Linear(192, L)), batch(torch.bfloat16, views=130)
    with pytest.raises(CannotRunError, match="half precision"):
        clipped_gradient_sum(
            model.bfloat16(), soft_cross_entropy, *given, 1.0, engine="bookkeeping"
        )
    model[1].compile(backend="eager")
    with pytest.raises(CannotRunError, match="compiled"):
        require_equal(model.float(), soft_cross_entropy, *batch(torch.float32))


def test_a_model_that_changed_is_compared_again():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(192, 192), nn.Linear(192, L)

        def forward(self, x):
            x = self.layer(x.flatten(1))
            return self.head(x @ self.layer.weight if self.layer.weight.requires_grad else x)

    model = Tied().requires_grad_(requires_grad=False)
    model.head.requires_grad_(requires_grad=True)
    require_equal(model, soft_cross_entropy, *batch())
    model.requires_grad_(requires_grad=True)
    with pytest.raises(CannotRunError, match="does not compute"):
        require_equal(model, soft_cross_entropy, *batch())


def test_without_its_least_share_rounding_would_add_more_than_c(monkeypatch):
    monkeypatch.setattr(layer_rules, "_LEAST_OF_SQUARES", 0.0)
    monkeypatch.setattr(layer_rules, "_LEAST_OF_SUM", 0.0)
    monkeypatch.setattr(layer_rules, "_WIDE", 1e9)
    lengths = [
        flat(sum_by("bookkeeping", zero_head(), soft_cross_entropy, *cancelling(64, 1e-8, s), 1.0))
        for s in range(20)
    ]
    assert max(float(one.norm()) for one in lengths) > 1.001


def test_a_wrong_norm_of_a_portion_is_caught(monkeypatch):
    """Norms of units mixed up between neighbours."""
    sound = bookkeeping._measured
    monkeypatch.setattr(
        bookkeeping, "_measured",
        lambda *given: (*(made := sound(*given))[:2], made[2].roll(1)),
    )  # fmt: skip
    with pytest.raises(CannotRunError, match="does not compute"):
        require_equal(built("vit"), soft_cross_entropy, *batch())
