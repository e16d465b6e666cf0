"""The way that is chosen: exact, public, and reasoned."""

import pytest
import torch
from torch import nn

from dpmix.clipping import engine as fastest
from dpmix.clipping.engine import choose_way, clipped_gradient_sum, fastest_way
from dpmix.clipping.loss import soft_cross_entropy
from dpmix.clipping.types import Way
from dpmix.models import build_model
from dpmix.models.head import LinearHead

SHAPE = (1, 12, 12)


def network():
    torch.manual_seed(0)
    return build_model("cnn-small", in_channels=1, num_classes=3)


def inputs(examples=3, views=4):
    generator = torch.Generator().manual_seed(1)
    made = torch.rand(examples, views, *SHAPE, generator=generator)
    return made, torch.rand(examples, views, 3, generator=generator).softmax(dim=-1)


def total(model, way, views, labels, c=0.1):
    way.prepare(model)
    part = clipped_gradient_sum(
        model, soft_cross_entropy, views, labels, c, engine=way.engine, view_chunk=way.view_chunk
    )
    return torch.cat([g.flatten() for g in part.gradients])


WAYS = [Way("examplewise", channels_last=True), Way("examplewise", 2), Way("vectorized")]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("c", [0.1, 1e3])
def test_every_way_computes_the_same_sum(way, c):
    views, labels = inputs()
    expected = total(network(), Way("examplewise"), views, labels, c)
    got = total(network(), way, views, labels, c)
    assert (got - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_one_example_less_changes_the_sum_by_no_more_than_c(way):
    model = network()
    views, labels = inputs(5)
    whole = total(model, way, views, labels)
    for left_out in range(5):
        rest = [index for index in range(5) if index != left_out]
        assert (whole - total(model, way, views[rest], labels[rest])).norm() <= 0.1 * (1 + 1e-6)


def test_trying_leaves_model_and_coins_as_they_were():
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = [p.stride() for p in model.parameters()]
    state = torch.get_rng_state()
    way = fastest_way(model, soft_cross_entropy, SHAPE, 4)
    assert torch.equal(torch.get_rng_state(), state)
    assert [p.stride() for p in model.parameters()] == strides
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert way.engine in ("examplewise", "vectorized")
    assert "examplewise" in way.reason and "vectorized" in way.reason and "ms" in way.reason


@pytest.mark.parametrize("fast", ["examplewise", "examplewise, channels last", "vectorized"])
def test_the_fastest_is_taken(fast, monkeypatch):
    def timed(ways, *_):
        return {way: 0.5 if str(way) == fast else 1.0 for way in ways}

    monkeypatch.setattr(fastest, "_timed", timed)
    assert str(fastest_way(network(), soft_cross_entropy, SHAPE, 4)) == fast


def test_what_is_hardly_faster_is_not_taken(monkeypatch):
    monkeypatch.setattr(
        fastest, "_timed",
        lambda ways, *_: {way: 1.0 if way == ways[0] else 0.97 for way in ways},
    )  # fmt: skip
    assert fastest_way(network(), soft_cross_entropy, SHAPE, 4).engine == "examplewise"


def test_a_model_that_vmap_cannot_run_is_tried_without_it():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Sequential(nn.Flatten(), nn.Linear(144, 3), nn.GroupNorm(1, 3))

        def forward(self, x):
            return self.linear(x) * (2.0 if x.sum().item() > 0 else 1.0)

    way = fastest_way(Looks(), soft_cross_entropy, SHAPE, 4)
    assert way.engine == "examplewise" and "vectorized" not in way.reason


def test_views_are_taken_a_few_at_a_time_where_memory_is_short(monkeypatch):
    model = network()
    monkeypatch.setattr(fastest, "free_memory", lambda _: 2**40)
    assert fastest._fitting_chunk(model, SHAPE, 34, torch.device("cpu")) is None
    monkeypatch.setattr(fastest, "free_memory", lambda _: 10)
    assert fastest._fitting_chunk(model, SHAPE, 34, torch.device("cpu")) == 1
    way = fastest_way(model, soft_cross_entropy, SHAPE, 34)
    assert (way.engine, way.view_chunk) == ("examplewise", 1)


def chosen(engine, model=None, shape=SHAPE, passes=1e9, repeatable=False):
    return choose_way(
        engine, model or network(), soft_cross_entropy, shape, 4, None, passes=passes,
        repeatable=repeatable,
    )  # fmt: skip


def test_what_is_asked_for_is_done_and_what_must_repeat_or_is_short_goes_by_rule(monkeypatch):
    monkeypatch.setattr(fastest, "fastest_way", lambda *_: Way("linear", reason="tried"))
    assert chosen("vectorized") == Way("vectorized", reason="as asked for")
    assert chosen("auto").reason == "tried"
    by_rule = chosen("auto", repeatable=True)
    assert by_rule == chosen("auto", passes=100) and "K = 4" in by_rule.reason


def test_a_head_needs_no_trial():
    way = chosen("auto", LinearHead(6, 3), (6,))
    assert way.engine == "linear" and "one linear layer" in way.reason
