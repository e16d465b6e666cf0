"""Examples of every class are tried, whatever makes their views."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from audit_subject import plan, trainer
from dpmix.audit.example_checks import ExampleChecks, of_every_class
from dpmix.training.feature_cache import CachedViews
from dpmix.views import ViewSpec


@given(st.lists(st.integers(0, 99), min_size=1, max_size=60), st.sampled_from([5, 100]))
def test_every_class_is_among_them_side_by_side(labels, classes):
    labels = torch.tensor(labels) % classes
    chosen = of_every_class(labels, classes, np.random.default_rng(0))
    assert len(chosen.unique()) == len(chosen)
    own = labels[chosen]
    assert torch.equal(own, own.sort().values)
    counts, most = labels.bincount(minlength=classes), max(2, 32 // classes)
    assert torch.equal(own.bincount(minlength=classes), counts.clamp(max=most))


def tried(subject):
    subject.plant(np.array([True]), np.array([0]))
    tests = ExampleChecks(subject, np.random.default_rng(0))
    tests.clip(compare=True)
    return tests.clipping(), tests.views()


def test_with_dropout_no_sums_are_compared():
    """Two passes of one example differ, as they should."""
    subject = trainer(plan(), examples=16)
    subject.model.append(nn.Dropout(0.5))
    clipping, views = tried(subject)
    assert clipping.holds and "whatever others" not in clipping.found
    assert views.holds and views.tested
    assert "whatever others" in tried(trainer(plan(), examples=16))[0].found


def test_one_example_has_no_neighbour():
    clipping, views = tried(trainer(plan(), examples=1))
    assert clipping.holds and views.holds and not views.tested


@pytest.mark.parametrize("mixes", [False, True])
def test_views_from_a_cache_are_tried_as_well(monkeypatch, mixes):
    subject = trainer(plan(), examples=16)
    features = torch.randn(16, 4, 5184)
    spec = ViewSpec("self-aug", k_base=2, crop_padding=1)
    subject._views = CachedViews(
        spec, replace(spec, k_base=4), 8, features, None, subject.data.labels
    )
    if mixes:
        sound = CachedViews.of

        def across(self, *call):
            made = sound(self, *call)
            return replace(made, views=(made.views + made.views.roll(1, dims=0)) / 2)

        monkeypatch.setattr(CachedViews, "of", across)
    clipping, views = tried(subject)
    assert clipping.holds and views.tested and views.holds != mixes
