"""`PrivateTrainer` does what its plan says: so many steps, so much noise, this denominator."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dpmix.clipping.types import soft_cross_entropy
from dpmix.data.normalization import normalization
from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError
from dpmix.privacy.noise import GaussianNoise
from dpmix.views import METHODS
from small_run import CLASSES, linear, not_private, plan, source, trainer


def state(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()]).double()


def released(run):
    """What one step hands to the optimiser: plain SGD at rate 1 subtracts it."""
    before = state(run.model)
    diagnostics = run.step()
    return before - state(run.model), diagnostics


def gradients(model, data):
    """Each example's own gradient, by hand."""
    views = normalization("half", 1)(data.pixels)
    soft = torch.eye(3)[data.labels]
    rows = []
    for view, label in zip(views, soft, strict=True):
        loss = soft_cross_entropy(model(view[None]), label[None]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())]))
    return torch.stack(rows).double()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "mix-diff"])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_only_a_plan_of_the_methods_own_sensitivity_is_taken(method, multiplier):
    needed = 2 if method == "microbatch-mixup" else 1
    the_plan = plan(sensitivity_multiplier=multiplier)
    if multiplier == needed:
        assert trainer(the_plan, method=method).step().drawn == 12
    else:
        said = f"method {method} has sensitivity {needed}C .* calibrated for {multiplier}C"
        with pytest.raises(DpmixError, match=said):
            trainer(the_plan, method=method)


def test_no_step_beyond_the_plan_is_taken():
    run = trainer(plan(steps=2))
    run.step()
    run.step()
    last = state(run.model)
    with pytest.raises(DpmixError, match="all 2 steps of the plan are done"):
        run.step()
    assert torch.equal(state(run.model), last)
    assert run.steps_done == 2


def test_a_step_that_fails_half_way_counts():
    run = trainer(plan(steps=1))

    def fail(*_):
        raise RuntimeError("out of memory")

    run.optimizer.register_step_pre_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        run.step()
    with pytest.raises(DpmixError, match="all 1 steps"):
        run.step()


@pytest.mark.parametrize("method", ["none", "mix-self", "microbatch-mixup"])
def test_an_empty_draw_releases_noise_and_uses_up_a_step(method):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 200), nn.ReLU(), nn.Linear(200, 3))
    multiplier = 2 if method == "microbatch-mixup" else 1
    the_plan = plan(sampling_rate=1e-9, steps=1, sensitivity_multiplier=multiplier)
    run = trainer(the_plan, model=wide, method=method)
    noise, diagnostics = released(run)
    assert diagnostics.drawn == 0
    assert math.isnan(diagnostics.loss)
    assert run.steps_done == 1
    law = stats.norm(0, 1.5 * 0.25 * multiplier / 5)
    assert stats.kstest(noise.numpy(), law.cdf).pvalue > 1e-3


def test_noise_differs_from_step_to_step_and_from_coordinate_to_coordinate():
    run = trainer(plan(sampling_rate=1e-9))
    (one, _), (two, _) = released(run), released(run)
    assert abs(stats.spearmanr(one.numpy(), two.numpy()).statistic) < 0.4
    assert len(one.unique()) > len(one) // 2


def test_the_optimizer_and_its_momentum_get_the_release_and_nothing_else(monkeypatch):
    """To the bit: neither gradients, momentum nor weights hold anything of the clean sum."""
    release, outputs, seen = GaussianNoise.release, [], []

    def noted(self, *given):
        outputs.append(release(self, *given))
        return [one.clone() for one in outputs[-1]]

    monkeypatch.setattr(GaussianNoise, "release", noted)
    model = linear()
    momentum = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.75)
    run = trainer(plan(steps=6, sampling_rate=0.5), model=model, optimizer=momentum)
    momentum.register_step_pre_hook(
        lambda *_: seen.append([p.grad.clone() for p in run.parameters])
    )
    weights = [p.detach().clone() for p in run.parameters]
    buffers = [torch.zeros_like(p) for p in weights]
    for step in range(6):
        run.step()
        got = [one.to(p.dtype) for one, p in zip(outputs[step], run.parameters, strict=True)]
        assert len(outputs) == len(seen) == step + 1
        assert all(map(torch.equal, seen[step], got))
        buffers = [0.75 * old + one for old, one in zip(buffers, got, strict=True)]
        weights = [old - 0.5 * held for old, held in zip(weights, buffers, strict=True)]
        kept = [momentum.state[p]["momentum_buffer"] for p in run.parameters]
        assert all(map(torch.equal, kept, buffers))
        assert all(map(torch.equal, run.parameters, weights))


@pytest.mark.parametrize(
    ("seeds", "equal"), [((3, 3), True), ((3, 4), False), ((None,) * 2, False)]
)
def test_noise_repeats_only_under_the_same_seed(seeds, equal):
    one, two = (released(trainer(plan(sampling_rate=1e-9), seed=seed))[0] for seed in seeds)
    assert torch.equal(one, two) == equal


@pytest.mark.parametrize("engine", ["examplewise", "vectorized"])
@pytest.mark.parametrize("denominator", [5.0, 12.0, 100.0])
def test_without_privacy_the_update_is_the_sum_of_gradients_over_the_plans_denominator(
    engine, denominator
):
    data = source()
    run = trainer(
        not_private(sampling_rate=1.0, denominator=denominator, steps=1), data, engine=engine
    )
    expected = gradients(run.model, data).sum(0) / denominator
    got, diagnostics = released(run)
    assert diagnostics.drawn == 12
    assert torch.allclose(got, expected, atol=1e-6)


def test_the_denominator_stays_whatever_number_is_drawn():
    # All examples are one: the sum is their number times one gradient, whichever were drawn.
    one = source(1)
    data = TensorSource(one.pixels.repeat(12, 1, 1, 1), one.labels.repeat(12), CLASSES)
    run = trainer(not_private(sampling_rate=0.5, denominator=5.0, steps=12), data)
    seen = set()
    for _ in range(12):
        gradient = gradients(run.model, one)[0]
        got, diagnostics = released(run)
        assert torch.allclose(got, diagnostics.drawn * gradient / 5, atol=1e-6)
        seen.add(diagnostics.drawn)
    assert len(seen) > 2


def test_with_privacy_the_update_is_the_clipped_sum_plus_the_plans_noise_over_the_denominator():
    data, the_plan = source(), plan(max_grad_norm=0.5, steps=100)
    run = trainer(the_plan, data)
    noise = []
    for _ in range(100):
        rows = gradients(run.model, data)
        norms = rows.norm(dim=1)
        assert (norms > 0.5).any()
        clipped = (rows * (0.5 / norms).clamp(max=1)[:, None]).sum(0)
        got, _ = released(run)
        noise.append(got * 5 - clipped)
        with torch.no_grad():  # stay where gradients are long enough to be clipped
            for parameter in run.parameters:
                parameter.mul_(0.1)
    law = stats.norm(0, 1.5 * 0.5)
    assert stats.kstest(torch.cat(noise).numpy(), law.cdf).pvalue > 1e-3


def test_examples_are_drawn_independently_at_the_plans_rate():
    run = trainer(plan(sampling_rate=0.3, steps=120), source(20))
    drawn = np.array([run.step().drawn for _ in range(120)])
    edges = [-1, 3, 4, 5, 6, 7, 8, 20]
    observed = np.histogram(drawn, np.array(edges) + 0.5)[0]
    expected = np.diff(stats.binom(20, 0.3).cdf(edges)) * 120
    assert stats.chisquare(observed, expected).pvalue > 1e-3


def test_a_model_with_batch_norm_is_refused_by_the_name_of_its_layer():
    mixing = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises(DpmixError, match=r"BatchNorm2d.*GroupNorm"):
        trainer(plan(), model=mixing)


def test_an_optimizer_over_other_parameters_is_refused():
    model = linear()
    some, other = list(model.parameters())[:1], list(linear().parameters())
    for parameters in (some, other, [*model.parameters(), *other]):
        with pytest.raises(DpmixError, match="the optimizer holds other parameters"):
            trainer(plan(), model=model, optimizer=torch.optim.SGD(parameters, lr=1.0))


def test_an_optimizer_that_leaves_out_frozen_parameters_is_taken_and_they_stay():
    model = linear()
    model[1].bias.requires_grad_(False)
    before = model[1].bias.clone()
    run = trainer(plan(), model=model, optimizer=torch.optim.SGD([model[1].weight], lr=1.0))
    moved, _ = released(run)
    assert moved.norm() > 0
    assert torch.equal(model[1].bias, before)
    with pytest.raises(DpmixError, match="the optimizer holds other parameters"):
        trainer(plan(), model=model, optimizer=torch.optim.SGD(model.parameters(), lr=1.0))


def test_frozen_batch_norm_stays_asleep_whatever_the_caller_does_between_steps():
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval().requires_grad_(False)
    model = nn.Sequential(frozen, nn.Flatten(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
    run = trainer(plan(), model=model, optimizer=optimizer)
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    for wake in (model.train, model.eval, lambda: None):
        wake()
        run.step()
        assert all(torch.equal(before[name], now) for name, now in frozen.state_dict().items())


@pytest.mark.parametrize("name", ["plan", "views", "steps_done", "optimizer"])
def test_what_the_noise_was_made_for_cannot_be_exchanged(name):
    run = trainer(plan())
    with pytest.raises(AttributeError):
        setattr(run, name, getattr(run, name))


def test_steps_of_another_trainer_on_the_model_warn():
    model = linear()
    trainer(plan(), model=model).step()
    with pytest.warns(UserWarning, match="epsilon does not count the steps taken there"):
        trainer(plan(), model=model)


def test_two_threads_take_no_step_at_once():
    run = trainer(plan())
    with run._stepping, pytest.raises(DpmixError, match="another thread is in a step"):
        run.step()
    assert run.steps_done == 0
    run.step()


def test_a_state_survives_json_and_is_checked():
    spent = plan(prior_releases=(9.0,))
    first = trainer(spent)
    first.step()
    state = json.loads(json.dumps(first.state()))
    second = trainer(spent)
    second.resume(state)
    assert second.steps_done == 1
    for steps in (-5, 9, math.nan, "1"):
        with pytest.raises(DpmixError, match=r"expected a number of steps, 0 to 4"):
            trainer(spent).resume(state | {"steps_done": steps})


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_trainer_cannot_be_copied(copied):
    with pytest.raises(DpmixError, match="both copies would add the same noise"):
        copied(trainer(plan()))


def test_a_forked_trainer_takes_no_step(monkeypatch):
    run = trainer(plan())
    monkeypatch.setattr("os.getpid", lambda: -1)
    with pytest.raises(DpmixError, match="made in another process"):
        run.step()


def test_memory_that_runs_out_ends_the_step_before_the_release_with_a_remedy(monkeypatch):
    run = trainer(plan())
    before = state(run.model)
    monkeypatch.setattr(type(run), "_chunks", lambda *_: torch.empty(1 << 50))
    with pytest.raises(DpmixError, match=r"out of memory with engine .*--view-chunk"):
        run.step()
    assert torch.equal(state(run.model), before) and run.steps_done == 0


def test_a_layer_that_is_put_in_later_and_keeps_statistics_stops_the_step_before_the_release():
    model = linear()
    run = trainer(plan(), model=model, method="self-aug", engine="examplewise")
    model[0] = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(36, affine=False))
    before = state(model)
    with pytest.raises(DpmixError, match=r"layers were .*exchanged.* after the trainer was made"):
        run.step()
    assert torch.equal(state(model), before)
    assert all(parameter.grad is None for parameter in model.parameters())
