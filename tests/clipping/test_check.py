"""check_private: what it refuses, with which words, and what it lets pass untouched."""

import random

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from dpmix.clipping.model_check import check_private
from dpmix.errors import DpmixError

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


def test_a_nested_batch_norm_is_named_by_its_whole_path():
    with pytest.raises(DpmixError, match=r"layer '1\.1\.0' \(BatchNorm2d\)"):
        check_private(net(nn.Sequential(nn.ReLU(), nn.Sequential(nn.BatchNorm2d(4)))))


def test_batch_norm_half_frozen_is_refused():
    for norm in (nn.BatchNorm2d(4).eval(), nn.BatchNorm2d(4).requires_grad_(False)):
        with pytest.raises(DpmixError, match="BatchNorm2d"):
            check_private(net(norm))


def test_batch_norm_without_statistics_of_its_own_is_refused_even_frozen():
    norm = nn.BatchNorm2d(4, track_running_stats=False).eval().requires_grad_(False)
    with pytest.raises(DpmixError, match=r"BatchNorm2d.*even when frozen"):
        check_private(net(norm))


def test_frozen_batch_norm_passes():
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


def test_lazy_parameters_are_refused():
    with pytest.raises(DpmixError, match=r"layer '2' \(LazyLinear\).*uninitialised.*'weight'"):
        check_private(net(head=nn.LazyLinear(5)))


def test_nothing_to_train_is_refused():
    with pytest.raises(DpmixError, match="no trainable parameter"):
        check_private(net().requires_grad_(False))


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (RunningMean, r"layer '1' \(RunningMean\) changes its buffer 'mean'"),
        (HiddenMean, r"layer '1' \(HiddenMean\) changes its attribute 'mean'"),
        (DataInit, r"layer '1' \(DataInit\) changes its parameter 'shift'"),
    ],
    ids=["buffer", "attribute", "parameter"],
)
@pytest.mark.parametrize("training", [True, False])
def test_state_that_a_forward_changes_is_refused(layer, words, training):
    with pytest.raises(DpmixError, match=words):
        check_private(net(layer()).train(training), IMAGE)


def test_spectral_norm_is_refused_until_its_power_iteration_stops():
    layer = spectral_norm(nn.Conv2d(4, 4, 1), n_power_iterations=200)  # converged: stands still
    with pytest.raises(DpmixError, match=r"parametrizations\.weight.*buffer '_u'"):
        check_private(net(layer), IMAGE)
    layer.requires_grad_(False).eval()
    check_private(net(layer), IMAGE)


@pytest.mark.parametrize(
    "layer",
    [MinusBatchMean(), MinusBatchMean(evaluation=False), MinusBatchMean(train=False)],
    ids=["always", "train only", "eval only"],
)
def test_mixing_is_caught_by_behaviour_and_named(layer):
    with pytest.raises(DpmixError, match=r"layer '1' \(MinusBatchMean\) mixes the examples"):
        check_private(net(layer), IMAGE)


def test_mixing_behind_a_head_of_zeros_is_caught():
    head = nn.Linear(4, 5)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    with pytest.raises(DpmixError, match="MinusBatchMean"):
        check_private(net(MinusBatchMean(), head=head), IMAGE)


def test_dependence_on_the_size_of_the_batch_is_caught():
    with pytest.raises(DpmixError, match="mixes the examples of a batch"):
        check_private(net(BySize()), IMAGE)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x, r"returned \[3, 3, 8, 8\]: expected logits \[B, L\]"),
        (lambda x: x.flatten(), r"returned \[576\]"),
        (lambda x: x.flatten(1)[:2], r"returned \[2, 192\]"),
        (lambda x: (x,), "returned tuple"),
        (lambda x: x.flatten(1) / 0, "non-finite"),
        (lambda x: x.view(7, -1), r"failed on a batch of shape \[3, 3, 8, 8\]: "),
    ],
    ids=["4-d", "1-d", "rows", "tuple", "nan", "fails"],
)
def test_a_model_without_logits_is_refused(function, words):
    with pytest.raises(DpmixError, match=words):
        check_private(Function(function), IMAGE)


PASSING = {
    "group norm": net(nn.GroupNorm(2, 4)),
    "layer norm": net(nn.LayerNorm([4, 8, 8])),
    "dropout": net(nn.Dropout(0.5), nn.GELU(), nn.Dropout2d(0.3)),
    "local response": net(nn.LocalResponseNorm(2)),
    "float64": net(nn.GroupNorm(2, 4)).double(),
    "bfloat16": net(nn.GroupNorm(2, 4)).bfloat16(),
}


@pytest.mark.parametrize("model", PASSING.values(), ids=PASSING)
def test_what_treats_each_image_alone_passes(model):
    check_private(model, IMAGE)


def test_attention_over_the_pixels_of_one_image_passes():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True)

        def forward(self, x):
            return self.encoder(x.flatten(2).mT).mT.unflatten(2, x.shape[2:])

    check_private(net(Attention()), IMAGE)


def test_a_head_on_features_is_checked_by_its_own_shape():
    check_private(nn.Linear(16, 4), (16,))


@pytest.mark.usefixtures("unchecked")
def test_the_check_leaves_no_trace():
    model = net(nn.GroupNorm(2, 4), nn.Dropout(), nn.BatchNorm2d(4).eval().requires_grad_(False))
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    random.seed(5)
    expected = torch.rand(3), random.random()
    torch.manual_seed(5)
    random.seed(5)
    check_private(model, IMAGE)
    assert torch.equal(torch.rand(3), expected[0])
    assert random.random() == expected[1]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_refused_model_is_left_as_it_was_too():
    layer = RunningMean()
    with pytest.raises(DpmixError):
        check_private(net(layer).eval(), IMAGE)
    assert (layer.mean == 0).all()
    assert not layer.training
