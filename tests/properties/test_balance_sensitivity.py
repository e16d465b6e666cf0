"""With weights and with lower rates, one unit moves what is released by at most C."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.data.normalization import normalization
from dpmix.data.persons import Persons
from dpmix.data.source import Subset, TensorSource, class_shares
from dpmix.privacy.balance import unit_weights
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.sampling import PoissonSampler
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec
from small_run import CLASSES, linear, plan, source, trainer

PREVALENCES = st.lists(st.floats(1e-3, 1.0), min_size=3, max_size=3).map(
    lambda raw: tuple(one / sum(raw) for one in raw)
)


def flat(part):
    return torch.cat([one.flatten() for one in part.gradients]).double()


def clipped_alone(model, data, place, bound):
    """One image's gradient, clipped by hand."""
    view = normalization("half", 1)(data.pixels[place][None])
    loss = torch.nn.functional.cross_entropy(model(view), data.labels[place][None])
    gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, model.parameters())])
    return (gradient * min(1.0, bound / float(gradient.norm()))).double()


@given(prevalences=PREVALENCES, seed=st.integers(0, 99), bound=st.sampled_from([1e-3, 0.25, 50.0]))
@settings(max_examples=25, deadline=None)
def test_a_unit_adds_its_own_weight_times_its_clipped_gradient(prevalences, seed, bound):
    data, model = source(7, seed), linear(seed)
    weights = unit_weights(class_shares(data, "image"), prevalences)
    run = trainer(plan(max_grad_norm=bound), data, model=model, weights=weights)
    draws, everyone = Randomness(1).step(0), torch.arange(7)
    whole = flat(run.clipped_sum(everyone, draws))
    for place in range(7):
        others = flat(run.clipped_sum(everyone[everyone != place], draws))
        alone = float(weights[place]) * clipped_alone(model, data, place, bound)
        torch.testing.assert_close(whole - others, alone, rtol=1e-3, atol=1e-6 * bound)
        assert float((whole - others).norm()) <= bound * (1 + 1e-6)


@given(prevalences=PREVALENCES, seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_a_persons_weight_ignores_all_other_persons(prevalences, seed):
    data = source(12, seed)
    owner = torch.from_numpy(np.random.default_rng(seed).permutation(12) % 4)
    persons = Persons(owner, tuple("abcd"))
    whole = TensorSource(data.pixels, data.labels, CLASSES, persons=persons)
    weights = unit_weights(class_shares(whole, "person"), prevalences)
    assert bool((weights > 0).all() and (weights <= 1).all())
    rarest = min(prevalences)
    for person in range(4):
        own = data.labels[owner == person].tolist()
        by_hand = np.mean([rarest / prevalences[label] for label in own])
        exact = len({*own}) == 1  # else in steps of an eighth of an octave
        assert float(weights[person]) == pytest.approx(by_hand, rel=1e-9 if exact else 0.045)
        left = Subset.of(whole, (owner != person).nonzero().flatten())
        rest = torch.cat([weights[:person], weights[person + 1 :]])
        assert torch.equal(unit_weights(class_shares(left, "person"), prevalences), rest)


def test_a_persons_clipped_gradient_is_weighed_as_a_whole():
    data = source(6, 2)
    persons = Persons(torch.tensor([0, 0, 1, 1, 2, 2]), ("a", "b", "c"))
    data = TensorSource(data.pixels, data.labels, CLASSES, persons=persons)
    spec, weights = ViewSpec("none", images_per_person=2), torch.tensor([1.0, 0.5, 0.25]).double()

    def alone(weights, person):
        model = linear()
        run = PrivateTrainer(
            model, data, plan=plan(unit="person"), weights=weights, seed=1,
            views=ViewBuilder(spec, 3, normalization("half", 1)),
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        )  # fmt: skip
        return flat(run.clipped_sum(torch.tensor([person]), Randomness(1).step(0)))

    for person, weight in enumerate(weights.tolist()):
        torch.testing.assert_close(alone(weights, person), weight * alone(None, person))


@given(seed=st.integers(0, 10**6), rate=st.floats(0.01, 1.0), weight=st.floats(0.01, 1.0))
@settings(max_examples=50, deadline=None)
def test_one_more_unit_leaves_the_draws_of_all_others(seed, rate, weight):
    weights = torch.from_numpy(np.random.default_rng(seed).uniform(0.01, 1, 30))
    more = torch.cat([weights, torch.tensor([weight]).double()])
    fewer, whole = (
        PoissonSampler(plan(sampling_rate=rate), len(one), one).draw(np.random.default_rng(seed))
        for one in (weights, more)
    )
    assert torch.equal(whole[whole < 30], fewer)
