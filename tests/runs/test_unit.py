"""Runs whose unit of privacy is a person: what is read, planned, stated and resumed."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dpmix.data.named import load_splits
from dpmix.data.source import persons_of
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian
from dpmix.reports.compare import compare
from dpmix.reports.verify import verify
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.fit import fit
from dpmix.runs.folder import RunFolder
from dpmix.runs.load import read_facts
from dpmix.training.distributed import Ranks

PERSONS = 30


def images(rng, count, size=8):
    return rng.integers(0, 256, (count, size, size), dtype=np.uint8)


def npz(path, counts, *, train_person=None, test_person=None, **more):
    """An .npz file of persons with these numbers of training images."""
    rng, total = np.random.default_rng(0), sum(counts)
    owner = np.repeat(np.arange(len(counts)), counts)
    np.savez(
        path, x_train=images(rng, total), y_train=np.arange(total) % 2, x_test=images(rng, 8),
        y_test=np.arange(8) % 2,
        train_person=owner if train_person is None else train_person,
        test_person=np.arange(8) + 1000 if test_person is None else test_person, **more,
    )  # fmt: skip
    return str(path)


@pytest.fixture
def data(tmp_path):
    return npz(tmp_path / "persons.npz", [1 + i % 4 for i in range(PERSONS)])


SMALL = {"model": "cnn-small", "steps": 2, "epsilon": 8.0, "crop_padding": 1}


def test_persons_are_the_unit_where_images_have_them(data, tmp_path):
    with pytest.warns(UserWarning, match="there are 30 persons"):
        result = fit(data=data, output=str(tmp_path / "run"), method="mix-self", **SMALL)
    plan = result.plan
    assert (plan.unit, plan.n, plan.denominator) == ("person", PERSONS, PERSONS)
    assert result.config.views.images_per_person == 8
    stated = json.loads((tmp_path / "run" / "privacy.json").read_text())
    assert stated["neighbouring_relation"] == plan.neighbouring_relation
    assert "one person with all their training images" in stated["guarantee"]
    assert stated["several_images"] is None and stated["examples"] == PERSONS
    assert verify(tmp_path / "run").statement.unit == "person"
    page = (tmp_path / "run" / "report.html").read_text()
    assert "views per person" in page and "one given person was among them" in page
    assert "Draw: each person enters a step" in page and "of their images" in page
    assert "any one person with all their training images" in page


def test_the_unit_can_be_an_image_and_a_warning_states_what_that_means(data, tmp_path):
    with pytest.warns(UserWarning, match="one person has 4 training images: for that person"):
        result = fit(data=data, output=str(tmp_path / "run"), unit="image", **SMALL)
    assert (result.plan.unit, result.plan.n) == ("image", 73)
    stated = json.loads((tmp_path / "run" / "privacy.json").read_text())
    several = {int(m): epsilon for m, epsilon in stated["several_images"].items()}
    assert sorted(several) == [2, 3, 5, 10]
    assert [*several.values()] == sorted(several.values()) and several[2] > stated["epsilon"]
    card = (tmp_path / "run" / "MODEL_CARD.md").read_text()
    assert "epsilon of a person with several images" in card and "For a person with more" in card
    verify(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:there are")
@pytest.mark.parametrize("method", ["none", "self-aug", "mix-self", "microbatch-mixup"])
def test_every_method_trains_on_persons(data, tmp_path, method):
    result = fit(data=data, output=str(tmp_path / "run"), method=method, k_base=8, **SMALL)
    assert result.plan.sensitivity_multiplier == (2 if method == "microbatch-mixup" else 1)


@pytest.mark.filterwarnings("ignore:there are")
@pytest.mark.parametrize("method", ["none", "self-aug"])
def test_a_head_trains_on_cached_views_of_persons(data, tmp_path, method):
    made = fit(
        data=data, output=str(tmp_path / "run"), backbone="scatternet", method=method, steps=2,
        cache_dir=str(tmp_path / "features"), epsilon=8.0,
    )  # fmt: skip
    assert made.plan.n == PERSONS
    assert made.config.features.cache_views == (24 if method == "none" else 8)


def test_shards_hold_whole_persons(data):
    run = build_run(Config.load(data=data, **SMALL))
    with pytest.warns(UserWarning, match="there are 30 persons"):
        run.trainer()
    names, places = [], []
    for rank in range(3):
        shard = replace(run, ranks=Ranks(rank, 3)).examples
        names += persons_of(shard).names
        places.append(len(shard))
    assert sorted(names) == sorted(persons_of(run.splits.train).names)
    assert len(names) == PERSONS and sum(places) == len(run.splits.train)


@pytest.mark.parametrize(("changes", "message"), [
    ({"train_person": np.zeros(73, int)}, "all training images belong to one person"),
    ({"train_person": np.arange(73) % 2}, "every class is one person; expected several"),
    ({"test_person": np.arange(8)}, "8 person.s. have train and test images, such as '0'"),
    ({"train_person": np.array(["x"] * 72 + [" "])}, "names no person for 1 image"),
    ({"train_person": np.zeros(5, int)}, "a name or a number for each of 73 images"),
])  # fmt: skip
def test_persons_that_do_not_fit_are_refused(tmp_path, changes, message):
    counts = [1 + i % 4 for i in range(PERSONS)]
    path = npz(tmp_path / "bad.npz", counts, **changes)
    with pytest.raises(DpmixError, match=message):
        build_run(Config.load(data=path, **SMALL))


def test_arrays_of_persons_with_other_names_are_refused(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "names.npz"
    arrays = {"x_training": images(rng, 6), "y_training": np.arange(6) % 2,
              "x_testing": images(rng, 4), "y_testing": np.arange(4) % 2}  # fmt: skip
    np.savez(path, **arrays, train_person=[0, 0, 1, 1, 2, 2], test_person=[7, 7, 8, 8])
    assert len(load_splits(str(path)).train.persons) == 3
    np.savez(path, **arrays, training_persons=[0, 0, 1, 1, 2, 2])
    with pytest.raises(DpmixError, match="'training_persons', which names no split; expected"):
        load_splits(str(path))


def test_one_image_of_two_persons_is_refused(tmp_path):
    path, rng = tmp_path / "shared.npz", np.random.default_rng(0)
    x = images(rng, 6)
    x[4] = x[0]
    for owner, shared in (([0, 0, 1, 1, 2, 2], True), ([0, 0, 1, 1, 0, 2], False)):
        np.savez(
            path, x_train=x, y_train=np.arange(6) % 2, x_test=images(rng, 4),
            y_test=np.arange(4) % 2, train_person=owner, test_person=[7, 7, 8, 8],
        )  # fmt: skip
        config = Config.load(data=str(path), **SMALL)
        if shared:
            with pytest.raises(DpmixError, match=r"1 image.s. belong to two persons or more"):
                build_run(config)
        else:
            build_run(config)


def folder(root, persons=40):
    rng = np.random.default_rng(0)
    for person in range(persons):
        for number in range(3):
            place = root / "ab"[int(rng.integers(2))]
            place.mkdir(parents=True, exist_ok=True)
            name = f"patient{person}_{number}.png"
            Image.fromarray(images(rng, 1)[0]).save(place / name)
    return str(root)


def test_a_held_out_share_goes_by_person(tmp_path):
    data = folder(tmp_path / "scans")
    pattern = {"data": data, "person_pattern": r"patient(\d+)_", **SMALL}
    with pytest.warns(UserWarning, match="one person in five, by the hash of its name"):
        run = build_run(Config.load(**pattern))
    train, test = (persons_of(side) for side in (run.splits.train, run.splits.test))
    assert not {*train.names} & {*test.names} and (train.counts == 3).all()
    with pytest.warns(UserWarning, match="one person in five"):
        part = build_run(Config.load(**pattern, validation_fraction=0.3, train_images=31))
    sides = [persons_of(side) for side in (part.splits.train, part.splits.test)]
    assert not {*sides[0].names} & {*sides[1].names}
    assert len(part.splits.train) == 30 and (sides[0].counts == 3).all()
    with pytest.raises(DpmixError, match="fewer than the first person has"):
        build_run(Config.load(**pattern, train_images=2))


def test_files_that_look_like_several_of_a_person_are_warned_of(tmp_path):
    data = folder(tmp_path / "scans")
    with pytest.warns(UserWarning, match="such as 'patient.*' look like several images of one"):
        build_run(Config.load(data=data, **SMALL))


@pytest.mark.parametrize(("settings", "message"), [
    ({"unit": "person"}, "the images have no persons; give --persons"),
    ({"images_per_person": 4}, "the unit of privacy is an image; give --persons"),
    ({"persons": ""}, "persons '' does not apply to data 'mnist5k'"),
    ({"persons": "list.csv"}, "persons 'list.csv' does not apply to data 'mnist5k'"),
    ({"person_column": "subject"}, "does not apply to data 'mnist5k'; expected hf:NAME"),
])  # fmt: skip
def test_persons_where_there_are_none(settings, message):
    with pytest.raises(DpmixError, match=message):
        build_run(Config.load(data="mnist5k", steps=1, **settings))


@pytest.mark.filterwarnings("ignore:there are")
def test_a_release_of_another_unit_does_not_count(data, tmp_path):
    record = {
        "what": "x", "written": "2026-01-01", "noise_multiplier": 100.0, "delta": 1e-5,
        "epsilon": epsilon_gaussian(100.0, 1e-5),
        "neighbouring_relation": "add or remove one training example",
    }  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps({"release": record}))
    config = Config.load(data=data, prior_releases=(str(tmp_path / "r.json"),), **SMALL)
    with pytest.raises(DpmixError, match="the unit of this run is one person"):
        build_run(config)


@pytest.mark.filterwarnings("ignore:there are", "ignore:the unit of privacy is an image")
def test_runs_of_two_units_are_not_added_up(data, tmp_path):
    for unit in ("image", "person"):
        fit(data=data, output=str(tmp_path / unit), unit=unit, **SMALL)
    names, folders = ("image", "person"), [RunFolder(tmp_path / one) for one in ("image", "person")]
    found = compare(names, [read_facts(one) for one in folders], set())
    assert found.together is None and found.why_not == "some protect an image and some a person"


@pytest.mark.filterwarnings("ignore:there are")
def test_mixing_has_to_be_asked_for(data):
    chosen = {"data": data, "steps": 1, "model": "wrn-16-4"}
    asked = {"self-aug": {}, "mix-self": {"k_self": 2}}
    for method, settings in asked.items():
        run = build_run(Config.load(**chosen, **settings), trial=True)
        assert run.views.spec.method == run.config.views.method == method


def test_a_class_folder_may_hold_a_folder_for_each_person(tmp_path):
    rng, root = np.random.default_rng(0), tmp_path / "scans"
    for person in range(20):
        place = root / "ab"[person % 2] / f"patient {person}"
        place.mkdir(parents=True)
        for number in range(1 + person % 3):
            Image.fromarray(images(rng, 1)[0]).save(place / f"{number}.png")
    settings = {"data": str(root), "test_fraction": 0.3, **SMALL}
    with pytest.warns(UserWarning, match="there are"):
        run = build_run(Config.load(person_pattern="([^/]+)/[^/]+$", **settings))
        run.trainer()
    names = {*persons_of(run.splits.train).names, *persons_of(run.splits.test).names}
    assert names == {f"patient {person}" for person in range(20)}
    with pytest.raises(DpmixError, match="holds a folder"):
        build_run(Config.load(**settings))
