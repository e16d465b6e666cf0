"""What only the engine `concurrent` can get wrong: examples that meet, and what is shared."""

import threading

import pytest
import torch
from torch import nn

from dpmix.errors import DpmixError
from dpmix.privacy.clipping import clipped_gradient_sum
from dpmix.training.loss import soft_cross_entropy


@pytest.fixture(autouse=True)
def two_cores():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def total(model, views, labels, engine="concurrent", c=0.5):
    return clipped_gradient_sum(model, soft_cross_entropy, views, labels, c, engine=engine)


def inputs(examples, views=3):
    generator = torch.Generator().manual_seed(2)
    made = torch.randn(examples, views, 6, generator=generator)
    return made, torch.rand(examples, views, 3, generator=generator).softmax(dim=-1)


class Keeps(nn.Module):
    """Puts the input away, waits for another example, and takes it out again."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.meeting = None

    def __deepcopy__(self, memo):
        twin = Keeps()
        twin.linear, twin.meeting = self.linear, self.meeting
        return twin

    def forward(self, x):
        self.kept = x
        if self.meeting is not None and x.shape[0] > 1:
            self.meeting.wait(timeout=20)
        return self.linear(self.kept)


def test_what_a_module_keeps_during_a_pass_is_not_seen_by_another_example():
    model = Keeps()
    views, labels = inputs(4)
    expected = total(model, views, labels, "examplewise")
    model.meeting = threading.Barrier(2)
    got = total(model, views, labels)
    assert torch.allclose(got.norms, expected.norms)
    for one, other in zip(got.gradients, expected.gradients, strict=True):
        assert torch.allclose(one, other)


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_any_number_of_examples(count):
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    views, labels = inputs(count)
    got, expected = (
        total(model, views, labels, engine) for engine in ("concurrent", "examplewise")
    )
    assert torch.allclose(got.norms, expected.norms) and torch.allclose(got.losses, expected.losses)
    for one, other in zip(got.gradients, expected.gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e6])
def test_an_example_left_alone_gives_what_it_gave_among_others(scale):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(600, 300), nn.ReLU(), nn.Linear(300, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(3, 40, 600, generator=generator)
    labels = torch.rand(3, 40, 3, generator=generator).softmax(dim=-1)
    among = total(model, views, labels).norms
    for index in range(3):
        alone = total(model, views[index : index + 1], labels[index : index + 1]).norms
        assert torch.equal(alone[0], among[index])


def test_a_model_with_hooks_is_refused():
    model = nn.Sequential(nn.Linear(6, 3))
    model[0].register_forward_hook(lambda *_: None)
    with pytest.raises(DpmixError, match=r"layer '0' has hooks.*examplewise"):
        total(model, *inputs(2))


def test_a_model_that_draws_coins_is_refused_and_leaves_them():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)).train()
    state = torch.get_rng_state()
    with pytest.raises(DpmixError, match=r"draws random numbers.*examplewise"):
        total(model, *inputs(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_that_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.Linear(6, 3))
    model.lock = threading.Lock()
    with pytest.raises(DpmixError, match=r"needs a copy of Sequential"):
        total(model, *inputs(2))
