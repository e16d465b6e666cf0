"""Engine `linear` against the engine that runs a backward pass an example."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dpmix.clipping.engine as engines
from dpmix.clipping import linear
from dpmix.clipping.engine import (
    choose_engine,
    clipped_gradient_sum,
    engine_by_rule,
    sum_by,
)
from dpmix.clipping.linear import trained_linear
from dpmix.clipping.types import soft_cross_entropy
from dpmix.errors import DpmixError
from dpmix.models.head import LinearHead


def batch(groups=7, views=3, features=6, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, views, features, generator=generator)
    return x, torch.rand(groups, views, classes, generator=generator).softmax(dim=2)


def models():
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).requires_grad_(False)
    heads = [LinearHead(6, 4, norm) for norm in ("none", "unit", "whiten")]
    for head in heads:
        nn.init.normal_(head.linear.weight)
    return [*heads, nn.Linear(6, 4, bias=False), nn.Sequential(frozen, nn.Linear(5, 4))]


@pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("clip", [0.3, 100.0, float("inf")])
@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("views", [1, 3])
def test_it_agrees_with_one_backward_pass_an_example(model, clip, chunk, views):
    x, labels = batch(views=views)
    one, two = (
        sum_by(engine, model, soft_cross_entropy, x, labels, clip, chunk=chunk)
        for engine in ("linear", "examplewise")
    )
    assert one.engine == "linear"
    for a, b in zip(one.gradients, two.gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert torch.allclose(one.norms, two.norms.to(one.norms), atol=1e-5)
    assert torch.allclose(one.losses, two.losses.to(one.losses), atol=1e-5)


@pytest.mark.parametrize("engine", ["linear", "vectorized"])
@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("scale", [0.2, 1e4, 1e6])
def test_an_example_left_alone_gives_what_it_gave_among_others(monkeypatch, engine, views, scale):
    """A single row takes another routine; where logits nearly tie its rounding decides them."""
    summed, _, numbers = engines._PORTIONED[engine]
    monkeypatch.setitem(engines._PORTIONED, engine, (summed, lambda *_: 4, numbers))
    generator = torch.Generator().manual_seed(1)
    head = LinearHead(1280, 3)
    weight = scale * torch.randn(3, 1280, generator=generator)
    head.linear.weight.data.copy_(weight)
    x = torch.randn(1, 1280, generator=generator).double()
    apart = (weight[1:] - weight[:1]).double()
    x = (x - (x @ apart.T) @ torch.linalg.inv(apart @ apart.T) @ apart).float()
    x = x[:, None].expand(5, views, -1)
    labels = torch.eye(3)[torch.tensor([0, 1, 2, 0, 1])][:, None].expand(-1, views, -1)

    def total(count):
        part = clipped_gradient_sum(
            head, soft_cross_entropy, x[:count], labels[:count], 1.0, engine=engine
        )
        return torch.cat([gradient.flatten() for gradient in part.gradients])

    for count in range(1, 5):
        assert (total(count + 1) - total(count)).norm() <= 1 + 1e-6


@pytest.mark.parametrize("views", [1, 3])
def test_a_loss_that_looks_at_all_its_rows_sees_one_example(views):
    """Adjusted by how often each label is there: over a batch that would join its examples."""

    def adjusted(logits, labels):
        return soft_cross_entropy(logits + 9 * labels.mean(dim=0), labels)

    model = models()[0]
    x, labels = batch(groups=9, views=views)
    whole, rest, alone = (
        clipped_gradient_sum(model, adjusted, some, its, 0.5, engine=engine)
        for some, its, engine in (
            (x, labels, "linear"), (x[1:], labels[1:], "linear"), (x, labels, "examplewise"))
    )  # fmt: skip
    gaps = [a - b for a, b in zip(whole.gradients, rest.gradients, strict=True)]
    assert torch.cat([gap.flatten() for gap in gaps]).norm() <= 0.5 * (1 + 1e-5)
    for a, b in zip(whole.gradients, alone.gradients, strict=True):
        assert torch.allclose(a, b.to(a), atol=1e-5)


def test_other_models_are_refused_by_name_and_not_chosen():
    x, labels = batch()
    two = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    after = nn.Sequential(nn.Linear(6, 4), nn.Tanh())
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(4, 4, bias=False))
    for other in (old, nn.utils.parametrizations.weight_norm(nn.Linear(4, 4, bias=False))):
        with pytest.raises(DpmixError, match="last linear layer alone"):
            trained_linear(other)
    for model, message in ((two, "last linear layer alone"), (after, "is not that of its trained")):
        with pytest.raises(DpmixError, match=message):
            clipped_gradient_sum(model, soft_cross_entropy, x, labels, 1.0, engine="linear")
        assert engine_by_rule(model, 3)[0] != "linear"


@pytest.mark.parametrize("features", [576, 768, 1280, 3888])
@pytest.mark.parametrize("classes", [2, 10, 37, 200])
@pytest.mark.parametrize("views", [1, 2, 8])
def test_auto_computes_every_head_by_its_own_engine(features, classes, views):
    """A sum of few numbers that ends in zeros by chance made heads of some sizes 30 times slow."""
    head = LinearHead(features, classes, "unit", 10.0)
    chosen = choose_engine("auto", head, soft_cross_entropy, (features,), views)
    assert chosen.name == "linear"


def cancelling(log_length, log_apart, views, seed):
    """A unit whose views' gradients cancel but for a part of 10^log_apart."""
    generator = torch.Generator().manual_seed(seed)
    one = 10.0**log_length * torch.randn(256, generator=generator) / 16
    apart = 10.0**log_apart * torch.randn(views, 256, generator=generator)
    signs = torch.tensor([1.0, -1.0]).repeat(views // 2)
    labels = 1 / 32 + signs[:, None] * 0.1 * torch.randn(32, generator=generator)
    return (one * (1 + apart))[None], labels[None]


def longest(head, views, labels):
    total = clipped_gradient_sum(head, soft_cross_entropy, views, labels, 1.0, engine="linear")
    return float(torch.cat([one.flatten() for one in total.gradients]).norm()), total


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-3, 7), st.floats(-9, 0), st.sampled_from([2, 4, 8]), st.integers(0, 99),
    st.booleans(),
)  # fmt: skip
def test_a_unit_whose_views_cancel_adds_at_most_c(log_length, log_apart, views, seed, bias):
    """Its norm is a small difference of large numbers, and must not come out too small."""
    head = nn.Linear(256, 32, bias=bias)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    length, total = longest(head, *cancelling(log_length, log_apart, views, seed))
    assert length <= 1 + 1e-8
    written = sum_by("examplewise", head, soft_cross_entropy,
                     *cancelling(log_length, log_apart, views, seed), 1.0)  # fmt: skip
    assert total.norms[0] >= written.norms[0] * (1 - 1e-5) - 1e-6


def test_norms_without_what_rounding_lost_are_caught(monkeypatch):
    """The property above fails for the norm as it comes out of the products."""

    def bare(residuals, features, bias):
        inner = [torch.bmm(rows, rows.transpose(1, 2)) for rows in (residuals, features)]
        return (inner[0] * (inner[1] + bias)).sum(dim=(1, 2)).clamp(min=0).sqrt()

    monkeypatch.setattr(linear, "longest_norms", bare)
    head = nn.Linear(256, 32, bias=False)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    lengths = [longest(head, *cancelling(9, -7.3, 8, seed))[0] for seed in range(50)]
    assert max(lengths) > 1.001
