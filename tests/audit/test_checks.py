"""Examples of every class are tried, and every optimizer is followed to the bit."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from audit_subject import linear_model, plan, planted
from dpmix.audit.checks import ExampleChecks, ReleaseChecks, of_every_class
from dpmix.training.cached_views import CachedViews
from dpmix.training.optimizer import OPTIMIZERS, build_optimizer, build_schedule
from dpmix.views import ViewSpec


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.sampled_from([5, 100]))
def test_every_class_is_among_them_one_after_another(labels, classes):
    labels = torch.tensor(labels) % classes
    chosen = of_every_class(labels, classes, np.random.default_rng(0))
    assert len(chosen.unique()) == len(chosen)
    own = labels[chosen]
    assert torch.equal(own, own.sort().values)
    counts, most = labels.bincount(minlength=classes), max(2, 32 // classes)
    assert torch.equal(own.bincount(minlength=classes), counts.clamp(max=most))


def tried(run):
    tests = ExampleChecks(run, np.random.default_rng(0))
    tests.clip(compare=True)
    return tests.clipping(), tests.views()


def test_with_dropout_no_sums_are_compared():
    """Two passes of one example differ, as they should."""
    model = linear_model().append(nn.Dropout(0.5))
    clipping, views = tried(planted(plan(), examples=16, model=model))
    assert clipping.holds and "whatever others" not in clipping.found
    assert views.holds and views.tested
    assert "whatever others" in tried(planted(plan(), examples=16))[0].found


def test_one_example_has_no_neighbour():
    clipping, views = tried(planted(plan(), examples=1))
    assert clipping.holds and views.holds and not views.tested


@pytest.mark.parametrize("mixes", [False, True])
def test_views_from_a_cache_are_tried_as_well(monkeypatch, mixes):
    spec = ViewSpec("self-aug", k_base=2, crop_padding=1)
    labels = (torch.arange(16) % 8).sort().values
    views = CachedViews(spec, replace(spec, k_base=4), 8, torch.randn(16, 4, 5184), None, labels)
    run = planted(plan(), examples=16, views=views, model=nn.Sequential(nn.Linear(5184, 8)))
    if mixes:
        sound = CachedViews.sample

        def across(self, *call):
            made = sound(self, *call)
            return replace(made, views=(made.views + made.views.roll(1, dims=0)) / 2)

        monkeypatch.setattr(CachedViews, "sample", across)
    clipping, found = tried(run)
    assert clipping.holds and found.tested and found.holds != mixes


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"Muon"}))  # Muon trains no bias
def test_weights_and_state_follow_from_the_gradients(name):
    run_plan, model = plan(steps=3), linear_model()
    optimizer = build_optimizer(name, model, run_plan.noise_std, {"lr": 0.05})
    build_schedule("cosine", optimizer, 3)
    run = planted(run_plan, (True, False), (0, 1), examples=1, model=model, optimizer=optimizer)
    tests = ReleaseChecks(run)
    for _ in range(3):
        run.step()
        tests.add()
    assert all(one.holds for one in tests.found()), [one.found for one in tests.found()]


def test_an_optimizer_that_keeps_other_numbers_is_caught():
    """A twin of Adam that was given other gradients has another state."""
    model = linear_model()
    adam = torch.optim.Adam(model.parameters(), lr=0.0)
    run = planted(plan(steps=2), examples=1, model=model, optimizer=adam)
    tests = ReleaseChecks(run)
    run.step()
    tests.add()
    adam.state[run.trainer.parameters[1]]["exp_avg_sq"][3] *= 1.0001
    run.step()
    tests.add()
    added, gradients, weights = tests.found()
    assert added.holds and gradients.holds and not weights.holds
    assert weights.found == "the optimizer's state does not follow from its gradients"


@pytest.mark.parametrize("kind", ["buffer", "frozen weight"])
def test_what_is_not_trained_stays(kind):
    run = planted(plan(), examples=1)
    layer = run.trainer.model[1]
    if kind == "buffer":
        layer.register_buffer("held", torch.zeros(3))
    else:
        layer.held = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    tests = ReleaseChecks(run)
    run.step()
    tests.add()
    layer.held[1] = 1e-6
    assert [one.holds for one in tests.found()] == [True, True, False]
