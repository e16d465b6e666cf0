"""A unit's gradient is the same to the bit, whatever other units there are and where they lie.

The models stand at a kink: all images are permutations of one, so that all pre-activations are the
same number but for the order of adding up, and the bias is minus their median. Behind the ReLU lie
large weights. One last bit decides whether a unit has a long gradient or none.
"""

from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dpmix.clipping.engine as engines
from dpmix.clipping.accumulator import ClippedAccumulator
from dpmix.clipping.engine import clipped_gradient_sum, engine_that_runs
from dpmix.clipping.linear import linear_numbers
from dpmix.clipping.place_probe import MOVES, why_not_apart
from dpmix.clipping.types import soft_cross_entropy
from dpmix.clipping.vectorized import vectorized_numbers
from dpmix.models.head import LinearHead

UNITS = 100
ENGINES = ("examplewise", "vectorized", "linear", "bookkeeping")
pytestmark = pytest.mark.filterwarnings("ignore:engine .* is not used")


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def permuted(width, views=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randint(0, 256, (width,), generator=generator) / 127.5 - 1
    rows = [base[torch.randperm(width, generator=generator)] for _ in range((UNITS + 1) * views)]
    return torch.stack(rows).view(UNITS + 1, views, width)


def at_a_kink(images, hidden=10):
    width = images.shape[-1]
    net = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))
    with torch.no_grad():
        net[0].weight.fill_(0.1)
        net[0].bias.fill_(-1e3)  # these stay off, and would hide what a probe looks for
        net[0].bias[0] = -torch.nn.functional.linear(images.flatten(0, 1), net[0].weight)[
            :, 0
        ].median()
        net[2].weight.zero_()
        net[2].weight[:, 0] = torch.tensor([-1e4, 1e4])
        net[2].bias.zero_()
    return net


def head_at_a_tie(images, classes=10):
    head = LinearHead(images.shape[-1], classes)
    with torch.no_grad():
        head.linear.weight[0] = 0.1
        head.linear.bias[0] = -head(images.flatten(0, 1))[:, 0].median()
        for parameter in head.parameters():
            parameter.mul_(2.0**40)  # exact
    return head


def result(net, views, labels, engine, **chunks):
    """In fresh memory: the row of a unit starts wherever its neighbours end."""
    part = clipped_gradient_sum(
        net, soft_cross_entropy, views.clone(), labels.clone(), 1.0, engine=engine, **chunks
    )
    return part, torch.cat([gradient.flatten() for gradient in part.gradients])


def refuse_any_move(net, views, classes, engine, **chunks):
    labels = torch.eye(classes)[0].expand(len(views), views.shape[1], classes)
    whole, total = result(net, views, labels, engine, **chunks)
    rest, less = result(net, views[1:], labels[1:], engine, **chunks)  # all others move up
    assert torch.equal(whole.norms[1:], rest.norms)
    assert torch.equal(whole.losses[1:], rest.losses)
    assert (total - less).norm() <= 1 + 1e-9


@pytest.mark.parametrize("count", [1, 2, 16])
@pytest.mark.parametrize(("width", "views", "hidden"), [(49, 1, 1), (49, 3, 10), (64, 1, 10)])
@pytest.mark.parametrize("engine", ["auto", "examplewise", "bookkeeping"])
def test_no_unit_moves_another_through_a_kink(engine, hidden, width, views, count):
    images = permuted(width, views)
    with threads(count):
        refuse_any_move(at_a_kink(images, hidden), images, 2, engine)


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("engine", ["vectorized", "linear", "bookkeeping"])
def test_nor_in_portions_of_another_size(monkeypatch, engine, chunk):
    summed, _, numbers = engines._PORTIONED[engine]
    monkeypatch.setitem(engines._PORTIONED, engine, (summed, lambda *_: chunk, numbers))
    images = permuted(49)
    net = head_at_a_tie(images, 2) if engine == "linear" else at_a_kink(images)
    refuse_any_move(net, images, 2, engine)


def test_nor_by_a_few_views_at_a_time():
    images = permuted(49, 3)
    refuse_any_move(at_a_kink(images), images, 2, "examplewise", view_chunk=2)


@pytest.mark.parametrize("count", [1, 2, 16])
@pytest.mark.parametrize(("width", "views"), [(33, 1), (250, 1), (440, 1), (250, 3)])
def test_no_unit_moves_another_through_a_head_at_a_tie(width, views, count):
    images = permuted(width, views)
    with threads(count):
        refuse_any_move(head_at_a_tie(images), images, 10, "linear")


def test_heads_of_any_width_are_computed_together():
    for width in (33, 1000):
        given = torch.zeros(3, 2, width), torch.zeros(3, 2, 10)
        head = LinearHead(width, 10)
        assert engine_that_runs("auto", head, soft_cross_entropy, *given)[0] == "linear"


@st.composite
def cases(draw):
    """A model, its views and labels, an engine and the unit that goes."""
    engine = draw(st.sampled_from(ENGINES))
    side = draw(st.integers(3, 9))
    kind = draw(st.sampled_from(["head"] if engine == "linear" else ["mlp", "cnn", "half"]))
    torch.manual_seed(draw(st.integers(0, 99)))
    hidden = draw(st.integers(1, 9))
    net = nn.Sequential(*{
        "head": lambda: (nn.Flatten(), nn.LazyLinear(3)),
        "mlp": lambda: (nn.Flatten(), nn.LazyLinear(hidden), nn.ReLU(), nn.Linear(hidden, 3)),
        "half": lambda: (nn.Flatten(), nn.LazyLinear(hidden), nn.Tanh(), nn.Linear(hidden, 3)),
        "cnn": lambda: (nn.Conv2d(1, hidden, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)),
    }[kind]())  # fmt: skip
    count, views = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    images = torch.randn(count, views, 1, side, side)
    net(images[0])  # gives the lazy layer its size
    if kind == "half":
        net, images = net.bfloat16(), images.bfloat16()
    labels = torch.rand(count, views, 3).softmax(-1)
    return net, images, labels, engine, draw(st.integers(0, count - 1))


@contextmanager
def recorded(rows):
    """Collect each unit's gradient on its way to being clipped."""
    sound = ClippedAccumulator.add

    def add(self, gradients, count=None):
        held = len(gradients[0]) if count is None else count
        rows.extend(torch.cat([g[i].flatten() for g in gradients]).clone() for i in range(held))
        return sound(self, gradients, count)

    ClippedAccumulator.add = add
    try:
        yield
    finally:
        ClippedAccumulator.add = sound


@settings(max_examples=15, deadline=None)
@given(cases())
def test_removing_a_unit_leaves_the_gradients_of_the_others_as_they_were_to_the_bit(case):
    net, images, labels, engine, gone = case
    kept = [i for i in range(len(images)) if i != gone]
    whole, rest = list[torch.Tensor](), list[torch.Tensor]()
    with recorded(whole):
        one, _ = result(net, images, labels, engine)
    with recorded(rest):
        two, _ = result(net, images[kept], labels[kept], engine)
    assert torch.equal(one.norms[kept], two.norms)
    # With one view the engine `linear` never writes a gradient down, and `bookkeeping` adds others.
    if whole and engine != "bookkeeping":
        assert all(torch.equal(whole[unit], rest[place]) for place, unit in enumerate(kept))
    assert len(one.norms) == len(images)


def odd_places_round_otherwise(model, loss, views, labels, alike):
    values, *others = vectorized_numbers(model, loss, views, labels, alike)
    values = values.clone()
    values[1::2] *= 1 + 2**-23
    return [values, *others]


def the_last_rounds_otherwise(model, loss, views, labels, alike):
    *others, logits = vectorized_numbers(model, loss, views, labels, alike)
    logits = logits.clone()
    logits[-1, 0, 0] *= 1 + 2**-23
    return [*others, logits]


def neighbours_count(model, loss, views, labels, alike):
    return vectorized_numbers(model, loss, views + 1e-7 * views.roll(1, dims=0), labels, alike)


@pytest.mark.parametrize(
    "planted", [odd_places_round_otherwise, the_last_rounds_otherwise, neighbours_count]
)
@pytest.mark.parametrize("asleep", [False, True])
def test_the_probe_refuses_planted_coupling(planted, asleep):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16))
    if asleep:
        with torch.no_grad():
            net[1].bias.fill_(-1e6)
    inputs = torch.zeros(1, 4, 1, 8, 8), torch.zeros(1, 4, 16)
    assert why_not_apart(vectorized_numbers, net, soft_cross_entropy, *inputs, 16) == ""
    assert why_not_apart(planted, net, soft_cross_entropy, *inputs, 16) == MOVES


class Rounds(nn.Module):
    def forward(self, x):
        return x.round()


class Gates(nn.Module):
    def forward(self, x):
        return (x > 20).float()


class Brief(nn.Module):
    def forward(self, x):
        return x.bfloat16().float()


@pytest.mark.parametrize("hiding", [
    nn.Threshold(20.0, 0.0), nn.Hardshrink(20.0), Rounds(), Gates(), Brief(),
], ids=lambda layer: type(layer).__name__)  # fmt: skip
@pytest.mark.parametrize("numbers", [vectorized_numbers, linear_numbers])
def test_a_model_that_hides_bits_from_the_probe_does_not_pass(hiding, numbers):
    """Behind such a layer noise tells nothing of what the run's own weights let through."""
    net = nn.Sequential(nn.Linear(64, 16), hiding, nn.Linear(16, 16))
    net[0].requires_grad_(False)
    inputs = torch.zeros(1, 2, 64), torch.zeros(1, 2, 16)
    assert why_not_apart(numbers, net, soft_cross_entropy, *inputs, 16) == MOVES
    plain = nn.Sequential(net[0], nn.ReLU(), net[2])
    assert why_not_apart(numbers, plain, soft_cross_entropy, *inputs, 16) == ""


@pytest.mark.parametrize("hiding", [nn.Threshold(20.0, 0.0), Rounds()], ids=["gate", "rounds"])
def test_no_unit_moves_another_behind_what_hides_bits(hiding):
    images = permuted(49)
    net = at_a_kink(images)
    with torch.no_grad():
        net[0].bias[0] += 20.0 if isinstance(hiding, nn.Threshold) else 0.5
    net[1] = hiding
    refuse_any_move(net, images, 2, "auto")


def test_half_precision_does_not_pass():
    net = nn.Linear(64, 16).bfloat16()
    inputs = torch.zeros(1, 2, 64, dtype=torch.bfloat16), torch.zeros(1, 2, 16)
    assert why_not_apart(linear_numbers, net, soft_cross_entropy, *inputs, 16) == MOVES


def test_the_probe_leaves_no_trace_and_looks_again_for_other_threads():
    layers = nn.Conv2d(1, 4, 3), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)
    net, tries = nn.Sequential(*layers), []

    def counted(*given):
        tries.append(torch.get_num_threads())
        return vectorized_numbers(*given)

    inputs = torch.zeros(1, 2, 1, 12, 12), torch.zeros(1, 2, 3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    for count in (1, 2, 1):
        with threads(count):
            why_not_apart(counted, net, soft_cross_entropy, *inputs, 4)
    assert tries == sorted(tries) and set(tries) == {1, 2}
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_what_is_not_finite_on_noise_is_not_taken():
    head = nn.Linear(16, 3)

    def infinite(logits, labels):
        return soft_cross_entropy(logits, labels) * float("inf")

    views, labels = torch.zeros(1, 1, 16), torch.zeros(1, 1, 3)
    assert why_not_apart(linear_numbers, head, infinite, views, labels, 8) == MOVES
