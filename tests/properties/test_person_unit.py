"""The unit is a person: whatever becomes of one person's images, one clipped gradient changes."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dpmix.clipping.engine import sum_by
from dpmix.clipping.types import soft_cross_entropy
from dpmix.data.normalization import normalization
from dpmix.data.persons import Persons
from dpmix.data.source import Subset, TensorSource
from dpmix.errors import DpmixError
from dpmix.models.backbones import load_backbone
from dpmix.pool.pool import PublicPool
from dpmix.training.feature_cache import FeatureCache
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec
from dpmix.views.persons import person_images
from small_run import linear, plan

C, L, SHAPE = 0.3, 3, (1, 6, 6)
METHODS = ("none", "self-aug", "mix-self", "mix-diff", "microbatch-mixup")


def pictures(count, seed, shape=SHAPE):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (count, *shape), dtype=np.uint8))
    return pixels, torch.from_numpy(rng.integers(0, L, count))


def source_of(persons, shape=SHAPE):
    """A source of persons, each a tuple of image seeds; the images of all lie shuffled."""
    owner = [name for name, images in persons.items() for _ in images]
    made = [pictures(1, seed, shape) for images in persons.values() for seed in images]
    pixels, labels = (torch.cat([pair[part] for pair in made]) for part in (0, 1))
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(owner)))
    names = [owner[i] for i in order]
    classes = ("a", "b", "c")
    return TensorSource(pixels[order], labels[order], classes, persons=Persons.named(names))


def views_of(builder, data, names, draws):
    """The views of the named persons, each group with its own row of `draws`."""
    number = {name: i for i, name in enumerate(data.persons.names)}
    own = [data.persons.images(number[name]) for name in names]
    # A person's images in an order that the other images do not change.
    by_pixels = lambda place: data.pixels[place].numpy().tobytes()  # noqa: E731
    own = [torch.tensor(sorted(some.tolist(), key=by_pixels)) for some in own]
    places, source = person_images(own, draws, builder.spec)
    return builder.build(data.pixels[places], data.labels[places], draws, source)


def builder_of(spec):
    pool = PublicPool(*pictures(6, 77)) if spec.method == "mix-diff" else None
    return ViewBuilder(spec, L, normalization("half", 1), pool)


def summed(views, engine):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, L)).double()
    part = sum_by(engine, net, soft_cross_entropy, views.views.double(), views.labels.double(), C)
    return torch.cat([g.flatten() for g in part.gradients])


@st.composite
def cases(draw):
    method = draw(st.sampled_from(METHODS[:4]))
    spec = ViewSpec(
        method, k_base=draw(st.integers(1, 9)), k_self=draw(st.integers(1, 4)), crop_padding=1,
        images_per_person=draw(st.integers(1, 5)),
    )  # fmt: skip
    seeds = st.lists(st.integers(0, 10**6), min_size=1, max_size=7)
    persons = {f"p{i}": draw(seeds) for i in range(draw(st.integers(2, 5)))}
    return spec, persons, draw(st.sampled_from([*persons])), draw(seeds)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(["examplewise", "vectorized", "linear"]))
def test_whatever_a_person_has_they_add_at_most_c_and_change_nobody_else(case, engine):
    spec, persons, name, other_images = case
    builder, names = builder_of(spec), [*persons]
    draws = builder.draw_views(len(names), np.random.default_rng(3))
    whole = views_of(builder, source_of(persons), names, draws)
    rest = [one for one in names if one != name]
    kept = torch.tensor([place for place, one in enumerate(names) if one != name])
    fewer = source_of({one: persons[one] for one in rest})
    without = views_of(builder, fewer, rest, draws.rows(kept))
    changed = views_of(builder, source_of(persons | {name: other_images}), names, draws)
    for views in (whole, changed):
        assert torch.equal(views.views[kept], without.views)
        assert torch.equal(views.labels[kept], without.labels)
        moved = float((summed(views, engine) - summed(without, engine)).norm())
        assert moved <= C * (1 + 1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 2))
def test_a_persons_images_share_the_views_evenly(count, most, views, members):
    method = "self-aug" if members == 1 else "microbatch-mixup"
    spec = ViewSpec(method, k_base=max(views, members), k_self=1, images_per_person=most)
    draws = builder_of(spec).draw_views(1, np.random.default_rng(0))
    own = [torch.arange(count) + 100 * member for member in range(members)]
    places, source = person_images(own, draws, spec)
    assert len(places.unique()) == len(places)
    seen = places[source[0]]
    for member in range(members):
        mine = seen[seen // 100 == member]
        used = torch.bincount(mine % 100)
        used = used[used > 0]
        assert len(used) == min(count, most, len(mine))
        assert int(used.max() - used.min()) <= 1


def test_every_image_of_a_person_is_drawn_as_often_as_the_others():
    spec = ViewSpec("none", images_per_person=2)
    builder, counts = builder_of(spec), torch.zeros(5)
    draws = builder.draw_views(4000, np.random.default_rng(0))
    places, source = person_images([torch.arange(5)] * 4000, draws, spec)
    counts = torch.bincount(places[source.flatten()], minlength=5)
    assert (counts - 1600).abs().max() < 4 * (4000 * 0.4 * 0.6) ** 0.5


BACKBONE = load_backbone("scatternet", torch.device("cpu"), input_size=16)


def cached(spec, data):
    pool = PublicPool(*pictures(6, 77, (3, 12, 12))) if spec.public_views else None
    builder = ViewBuilder(spec, L, BACKBONE.normalization, pool)
    with tempfile.TemporaryDirectory() as folder:
        cache = FeatureCache(
            Path(folder), BACKBONE, spec.views + 2, 0, "float32", None, torch.device("cpu")
        )
        made = cache.embed_train(data, builder, lambda done, total: None)
        rows = (made.features.clone(), made.soft_labels.clone())
        return dict(zip(data.persons.names, zip(*rows, strict=True), strict=True))


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(METHODS[:4]), st.data())
def test_a_cached_row_is_a_function_of_one_person(method, data):
    spec = ViewSpec(method, k_base=3, k_self=2, k_diff=1, images_per_person=2)
    seeds = st.lists(st.integers(0, 99), min_size=1, max_size=4)
    persons = {name: data.draw(seeds) for name in ("a", "b", "c")}
    before = cached(spec, source_of(persons, (3, 12, 12)))
    # Where a person's images lie among the others' must not count: these keep their order.
    without = cached(spec, source_of({"a": persons["a"], "c": persons["c"]}, (3, 12, 12)))
    changed = cached(spec, source_of(persons | {"b": [1000, 1001]}, (3, 12, 12)))
    for name in ("a", "c"):
        if len(persons[name]) > 1:
            continue  # the shuffle of the test's own source orders their images anew
        for other in (without, changed):
            assert all(map(torch.equal, before[name], other[name]))
    assert not torch.equal(before["b"][0], changed["b"][0])


def trainer(data, run_plan, spec, **recorded):
    net = linear()
    return PrivateTrainer(
        net, data, plan=run_plan, views=builder_of(spec),
        optimizer=torch.optim.SGD(net.parameters(), lr=1.0), seed=1, **recorded,
    )  # fmt: skip


SPEC = ViewSpec("none", images_per_person=4)
PEOPLE = {"a": [1, 2, 3], "b": [4], "c": [5, 6]}


def test_a_trainer_draws_persons_and_clips_once_for_each():
    drawn = []

    def record(self, units, draws):
        part = PrivateTrainer.clipped_sum(self, units, draws)
        drawn.append((units.tolist(), len(part.norms)))
        return part

    data = source_of(PEOPLE)
    trainer(data, plan(unit="person", steps=1), SPEC, clipped_sum=record).step()
    assert drawn == [([0, 1, 2], 3)]


@pytest.mark.parametrize(("changes", "spec", "data", "message"), [
    ({"unit": "image"}, SPEC, source_of(PEOPLE), "is 'image' and the views' is 'person'"),
    ({"unit": "person"}, ViewSpec("none"), source_of(PEOPLE), "is 'person' and the views' is"),
    ({"unit": "person"}, SPEC, TensorSource(*pictures(4, 0), ("a", "b", "c")), "have no persons"),
])  # fmt: skip
def test_plan_views_and_data_must_have_one_unit(changes, spec, data, message):
    with pytest.raises(DpmixError, match=message):
        trainer(data, plan(**changes), spec)


def each_image_by_itself(self, data, units, rng, device):
    """Planted: an image of a person is a unit, so a person with three adds three gradients."""
    persons = data.persons
    places = torch.cat([persons.images(one) for one in units.tolist()])
    plain = replace(self, spec=replace(self.spec, images_per_person=None))
    return plain.build(data.images(places), data.labels[places], plain.draw_views(len(places), rng))


def of_the_neighbour(self, data, units, rng, device):
    """Planted: a person's views are cut from the next person's images too."""
    made = sound(self, data, units, rng, device)
    made.views[:, 0] = made.views[:, 0].roll(1, dims=0)
    return made


sound = ViewBuilder.sample


@pytest.mark.parametrize("planted", [each_image_by_itself, of_the_neighbour])
def test_planted_bugs_move_the_sum_by_more_than_c(monkeypatch, planted):
    monkeypatch.setattr(ViewBuilder, "sample", planted)
    data, worst = source_of(PEOPLE | {"d": [7, 8, 9, 10]}), 0.0
    fewer = source_of(PEOPLE)
    for seed in range(20):
        sums = []
        for some in (data, fewer):
            units = torch.arange(len(some.persons))
            rng = np.random.default_rng(seed)
            views = builder_of(SPEC).sample(some, units, rng, torch.device("cpu"))
            sums.append(summed(views, "examplewise"))
        worst = max(worst, float((sums[0] - sums[1]).norm()))
    assert worst > C * 1.2


def moved_by_removing_d(sum_of):
    """The largest change over some draws when a person with six images goes."""
    data = source_of(PEOPLE | {"d": [7, 8, 9, 10, 11, 12]})
    kept = data.persons.owner != data.persons.names.index("d")
    fewer = Subset.of(data, kept.nonzero().flatten())
    return max(float((sum_of(data, seed) - sum_of(fewer, seed)).norm()) for seed in range(10))


def sum_of_shards(data, seed, shards):
    """The sum over processes, each of which owns some of the images."""
    total = torch.zeros(36 * L + L, dtype=torch.float64)
    for places in shards(data):
        part, rng = Subset.of(data, places), np.random.default_rng(seed)
        units = torch.arange(len(part.persons))
        views = builder_of(SPEC).sample(part, units, rng, torch.device("cpu"))
        total += summed(views, "examplewise")
    return total


def by_persons(data):
    owner = data.persons.owner
    return [(owner < 2).nonzero().flatten(), (owner >= 2).nonzero().flatten()]


def by_images(data):
    """Planted: a person whose images lie in two parts is clipped in each of them."""
    return torch.arange(len(data)).chunk(2)


def test_a_person_on_two_processes_would_add_more_than_c():
    assert moved_by_removing_d(lambda data, seed: sum_of_shards(data, seed, by_persons)) <= C + 1e-9
    assert moved_by_removing_d(lambda data, seed: sum_of_shards(data, seed, by_images)) > 1.2 * C


def rows_without_b(persons):
    before = cached(SPEC_OF_ROWS, source_of(persons, (3, 12, 12)))
    fewer = {name: images for name, images in persons.items() if name != "b"}
    after = cached(SPEC_OF_ROWS, source_of(fewer, (3, 12, 12)))
    return [torch.equal(before[name][0], after[name][0]) for name in fewer]


SPEC_OF_ROWS = ViewSpec("self-aug", k_base=3, images_per_person=2)


def test_rows_that_two_persons_share_are_caught(monkeypatch):
    persons = {"a": [1], "b": [2], "c": [3]}
    assert all(rows_without_b(persons))
    counted = iter(range(100))

    def by_place(images, labels, seed):
        """Planted: draws that depend on how many persons were embedded before."""
        return np.random.default_rng(next(counted) % 5)

    monkeypatch.setattr("dpmix.training.feature_cache.example_rng", by_place)
    assert not all(rows_without_b(persons))
