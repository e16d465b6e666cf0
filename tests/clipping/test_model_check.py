"""check_private: what it refuses, with which words, and what it lets pass untouched."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm
from torchvision.models.vision_transformer import VisionTransformer

from dpmix.clipping.model_check import check_private, number_of_classes
from dpmix.errors import DpmixError
from dpmix.models import build_model

IMAGE = (3, 8, 8)


def net(*layers: nn.Module, head: nn.Module | None = None) -> nn.Sequential:
    """Put layers that keep [B, 4, 8, 8] between a convolution and a head."""
    head = head or nn.Linear(4, 5)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers, pool, head)


class RunningMean(nn.Module):
    """Updates a buffer without being a known kind of layer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(dim=(0, 2, 3))
        return x - self.mean.view(1, -1, 1, 1)


class HiddenMean(nn.Module):
    """Keeps its running mean in a plain attribute that starts as None."""

    def __init__(self):
        super().__init__()
        self.mean = None

    def forward(self, x):
        now = x.detach().mean(dim=(0, 2, 3), keepdim=True)
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
        return x - self.mean


class DataInit(nn.Module):
    """Sets a parameter from the first batch that it sees, then leaves it alone."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(1, 4, 1, 1))
        self.done = False

    def forward(self, x):
        if not self.done:
            self.shift.data = x.detach().mean(dim=(0, 2, 3), keepdim=True)
            self.done = True
        return x - self.shift


class MinusBatchMean(nn.Module):
    """Mixes the examples, in the chosen modes, through a path without gradient."""

    def __init__(self, train=True, evaluation=True):
        super().__init__()
        self.when = {True: train, False: evaluation}

    def forward(self, x):
        return x - x.detach().mean(dim=0, keepdim=True) if self.when[self.training] else x


class BySize(nn.Module):
    """Depends on how many examples there are, not on which."""

    def forward(self, x):
        return x / len(x)


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.function(self.weight * x)


BATCH_NORMS = [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.LazyBatchNorm2d()]


@pytest.mark.parametrize("norm", BATCH_NORMS, ids=lambda norm: type(norm).__name__)
@pytest.mark.parametrize("shape", [None, IMAGE])
def test_batch_norm_is_refused_by_path_type_and_remedy(norm, shape):
    with pytest.raises(DpmixError, match=rf"layer '1' \({type(norm).__name__}\).*GroupNorm.*freez"):
        check_private(net(norm), shape)


def test_batch_norm_passes_only_if_it_is_frozen_and_has_statistics():
    bare = nn.BatchNorm2d(4, track_running_stats=False).eval().requires_grad_(False)
    for norm in (nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4).requires_grad_(False), bare):
        with pytest.raises(DpmixError, match=r"layer '1\.0' \(BatchNorm2d\)"):
            check_private(net(nn.Sequential(norm)))
    check_private(net(nn.BatchNorm2d(4).eval().requires_grad_(False)), IMAGE)


def test_batch_norm_without_parameters_passes_only_inside_a_frozen_backbone():
    backbone = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False))
    with pytest.raises(DpmixError, match="BatchNorm2d"):
        check_private(net(backbone[1]).eval())
    check_private(net(backbone.eval().requires_grad_(False)), IMAGE)


def test_instance_norm_with_running_statistics_is_refused_unless_frozen():
    norm = nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    with pytest.raises(
        DpmixError, match=r"layer '1' \(InstanceNorm2d\).*track_running_stats=False"
    ):
        check_private(net(norm))
    check_private(net(norm.eval().requires_grad_(False)), IMAGE)
    check_private(net(nn.InstanceNorm2d(4)), IMAGE)


@pytest.mark.parametrize(("layer", "changes"), [
    (RunningMean, "buffer 'mean'"), (HiddenMean, "attribute 'mean'"),
    (DataInit, "parameter 'shift'"),
])  # fmt: skip
def test_state_that_a_forward_changes_is_refused(layer, changes):
    with pytest.raises(DpmixError, match=rf"layer '1' \({layer.__name__}\) changes its {changes}"):
        check_private(net(layer()).eval(), IMAGE)


def test_spectral_norm_is_refused_until_its_power_iteration_stops():
    layer = spectral_norm(nn.Conv2d(4, 4, 1), n_power_iterations=200)  # converged: stands still
    with pytest.raises(DpmixError, match=r"parametrizations\.weight.*buffer '_u'"):
        check_private(net(layer), IMAGE)
    layer.requires_grad_(False).eval()
    check_private(net(layer), IMAGE)


@pytest.mark.parametrize("layer", [
    MinusBatchMean(), MinusBatchMean(evaluation=False), MinusBatchMean(train=False), BySize(),
], ids=["always", "train only", "eval only", "by size"])  # fmt: skip
@pytest.mark.parametrize("zeros", [False, True])
def test_mixing_is_caught_by_behaviour_even_behind_a_head_of_zeros(layer, zeros):
    head = nn.Linear(4, 5)
    if zeros:
        nn.init.zeros_(head.weight)
    with pytest.raises(DpmixError, match=r"Sequential mixes the examples of a batch"):
        check_private(net(layer, head=head), IMAGE)


@pytest.mark.parametrize(("function", "words"), [
    (lambda x: x, r"returned \[3, 3, 8, 8\]: expected logits \[B, L\]"),
    (lambda x: x.flatten(1)[:2], r"returned \[2, 192\]"),
    (lambda x: (x,), "returned tuple"),
    (lambda x: x.flatten(1) / 0, "non-finite"),
    (lambda x: x.view(7, -1), r"failed on a batch of shape \[3, 3, 8, 8\]: "),
], ids=["4-d", "rows", "tuple", "nan", "fails"])  # fmt: skip
def test_a_model_without_logits_is_refused(function, words):
    with pytest.raises(DpmixError, match=words):
        check_private(Function(function), IMAGE)


class CacheOfShapes(nn.Module):
    """What is kept follows from the shape alone, as position embeddings are kept."""

    def __init__(self):
        super().__init__()
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = torch.linspace(0, 1, x.shape[-1])
        return x + self.kept


def vit():
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32,
        num_classes=4, dropout=0.3,
    )  # fmt: skip


@pytest.mark.parametrize("build", [
    lambda: net(nn.GroupNorm(2, 4), nn.LayerNorm([4, 8, 8]), nn.LocalResponseNorm(2)).double(),
    lambda: net(nn.Dropout(0.5), nn.GELU(), nn.Dropout2d(0.3)),
    lambda: net(nn.GroupNorm(2, 4)).bfloat16(),
    lambda: net(CacheOfShapes()),
    vit,
    lambda: build_model("wrn-16-4", in_channels=3, num_classes=4),
])  # fmt: skip
def test_what_treats_each_image_alone_passes(build):
    check_private(build(), IMAGE)


@pytest.mark.usefixtures("unchecked")
def test_the_check_leaves_no_trace():
    model = net(nn.GroupNorm(2, 4), nn.Dropout(), nn.BatchNorm2d(4).eval().requires_grad_(False))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]

    def seeded():
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002

    def drawn():
        return torch.rand(1).item(), random.random(), np.random.random()  # noqa: NPY002

    seeded()
    expected = drawn()
    seeded()
    check_private(model, IMAGE)
    assert number_of_classes(model, IMAGE) == 5
    assert drawn() == expected
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


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


@pytest.mark.parametrize("kind", [SetByTheFirstBatch, SlowDrift, ListOfBatches, HookWithState])
def test_memory_is_refused_wherever_it_is_kept_and_the_model_itself_never_runs(kind):
    model = kind()
    with pytest.raises(DpmixError, match=f"{kind.__name__} keeps something of earlier batches"):
        check_private(model, IMAGE)
    assert model.kept is None


def autocast(model):
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)


@pytest.mark.parametrize(("change", "words"), [
    (lambda model: setattr(model, "2", nn.LazyLinear(5)), r"layer '2' \(LazyLin.* 'weight'"),
    (lambda model: model.requires_grad_(False), "no trainable parameter"),
    (lambda model: model[2].weight.register_hook(lambda gradient: gradient),
     r"layer '2' \(Linear\) has a hook .* 'weight'"),
    (lambda model: setattr(model, "stream", (one for one in "ab")), "can't be copied.*generator"),
    (autocast, r"model \(Sequential\) has its forward replaced"),
])  # fmt: skip
def test_what_cannot_be_checked_is_refused_by_name(change, words):
    model = net()
    change(model)
    with pytest.raises(DpmixError, match=words):
        check_private(model, IMAGE)


def test_a_compiled_model_is_refused():
    with pytest.raises(DpmixError, match=r"compiled by torch\.jit"):
        check_private(torch.jit.trace(net().eval(), torch.ones(1, *IMAGE)), IMAGE)
