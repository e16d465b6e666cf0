"""Models that remember, in whatever way, are refused; models that do not, pass."""

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer

from dpmix.clipping.model_check import check_private
from dpmix.errors import DpmixError
from dpmix.models import build_model

IMAGE = (3, 8, 8)


class Remembering(nn.Module):
    """A linear model with a way to keep something, applied to the pixels."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 4)
        self.kept = None

    def forward(self, x):
        return self.linear(self.keep(x.flatten(1)))


class SetByTheFirstBatch(Remembering):
    """A plain tensor, filled once: the probe would put back the empty one."""

    def keep(self, x):
        if self.kept is None:
            self.kept = x.detach().mean(0)
        return x - self.kept


class NumberThatFollowsTheData(Remembering):
    """A Python number, changed only while gradients are on."""

    def keep(self, x):
        if torch.is_grad_enabled():
            self.kept = 0.5 * (self.kept or 0.0) + x.detach().mean().item()
        return x + (self.kept or 0.0)


class SlowDrift(Remembering):
    """A number that falls by two parts in ten thousand at every pass."""

    def keep(self, x):
        self.kept = 0.9998 * (1.0 if self.kept is None else self.kept)
        return x * self.kept


class ListOfBatches(Remembering):
    def keep(self, x):
        self.kept = [*(self.kept or []), x.detach().mean()]
        return x + torch.stack(self.kept).mean()


class HookWithState(Remembering):
    """A module's backward hook that scales gradients by what came before."""

    def __init__(self):
        super().__init__()
        seen = []

        def hook(module, grad_input, grad_output):
            seen.append(float(grad_output[0].abs().mean()))
            return (grad_input[0] * (1 + sum(seen)),)

        self.inner = nn.Linear(192, 192)
        self.inner.register_full_backward_hook(hook)
        self.outer = nn.Linear(192, 192)

    def keep(self, x):
        return self.inner(self.outer(x))


@pytest.mark.parametrize(
    "kind", [SetByTheFirstBatch, NumberThatFollowsTheData, SlowDrift, ListOfBatches, HookWithState]
)
def test_memory_is_refused_wherever_it_is_kept(kind):
    with pytest.raises(DpmixError, match=f"{kind.__name__} keeps something|changes its attribute"):
        check_private(kind(), IMAGE)


def test_a_hook_on_a_parameter_is_refused_by_its_layer():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    model[1].weight.register_hook(lambda gradient: gradient)
    with pytest.raises(DpmixError, match=r"layer '1' \(Linear\) has a hook .* 'weight'"):
        check_private(model, IMAGE)


def test_a_model_that_cannot_be_copied_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4))
    model.stream = (number for number in range(3))
    with pytest.raises(DpmixError, match=r"can't be copied.*generator"):
        check_private(model, IMAGE)


class CacheOfShapes(Remembering):
    """What is kept follows from the shape alone, as position embeddings are kept."""

    def keep(self, x):
        if self.kept is None:
            self.kept = torch.linspace(0, 1, x.shape[1])
        return x + self.kept


def vit():
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=4, dropout=0.3,
    )  # fmt: skip


@pytest.mark.parametrize(
    "build",
    [
        CacheOfShapes,
        vit,
        lambda: build_model("wrn-16-4", in_channels=3, num_classes=4),
        lambda: build_model("cnn-small", in_channels=3, num_classes=4),
        lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4)),
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).bfloat16(),
    ],
)
def test_what_keeps_nothing_of_the_data_passes(build):
    check_private(build(), IMAGE)


def test_the_model_itself_never_runs():
    model = SlowDrift()
    with pytest.raises(DpmixError):
        check_private(model, IMAGE)
    assert model.kept is None


def test_a_forward_that_was_replaced_on_the_object_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)).eval()
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    with pytest.raises(DpmixError, match=r"model \(Sequential\) has its forward replaced"):
        check_private(model, IMAGE)


def test_a_compiled_script_is_refused_by_name():
    model = torch.jit.trace(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), torch.ones(1, *IMAGE))
    with pytest.raises(DpmixError, match=r"compiled by torch\.jit"):
        check_private(model, IMAGE)


def test_the_callers_graph_and_numpys_generator_are_left_alone():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 4))
    loss = model(torch.ones(2, *IMAGE)).square().sum()
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    check_private(model, IMAGE)
    loss.backward()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
