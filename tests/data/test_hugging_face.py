"""`hf:NAME` on a real data set of the library's own format, written to disk by it."""

import builtins

import numpy as np
import pytest
import torch

from dpmix.data import load_splits
from dpmix.errors import DpmixError
from pictures import noise_picture

datasets = pytest.importorskip("datasets")

NAMES = ["ant", "bee"]


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write({"train": 6, "test": 4}): parquet files of so many images a split; their folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(splits, columns=("image", "label")):
        folder = tmp_path / "set"
        folder.mkdir()
        for seed, (side, count) in enumerate(splits.items()):
            rows = {}
            features = {}
            for column in columns:
                if column.startswith("image"):
                    rows[column] = [
                        noise_picture("RGB", 8, 9, 100 * seed + i) for i in range(count)
                    ]
                    features[column] = datasets.Image()
                else:
                    rows[column] = [i % 2 for i in range(count)]
                    features[column] = datasets.ClassLabel(names=NAMES)
            data = datasets.Dataset.from_dict(rows, features=datasets.Features(features))
            data.to_parquet(folder / f"{side}-00000.parquet")
        return f"hf:{folder}"

    return make


@pytest.mark.parametrize("other", ["test", "validation"])
def test_both_splits_are_read_with_names_labels_and_pixels(write, other):
    splits = load_splits(write({"train": 6, other: 4}))
    assert splits.name == "set"
    assert splits.train.class_names == ("ant", "bee")
    assert splits.train.labels.tolist() == [0, 1] * 3
    assert len(splits.test) == 4
    for source, seed in ((splits.train, 0), (splits.test, 100)):
        for i in range(len(source)):
            expected = np.asarray(noise_picture("RGB", 8, 9, seed + i)).transpose(2, 0, 1)
            assert np.array_equal(source.images(torch.tensor([i]))[0].numpy(), expected)


def test_options_apply(write):
    splits = load_splits(write({"train": 4, "test": 2}), image_size=5, channels=1)
    assert splits.train.image_shape == (1, 5, 5)


def test_of_several_class_columns_label_is_taken(write):
    assert len(load_splits(write({"train": 4, "test": 2}, ("image", "coarse", "label"))).train) == 4


@pytest.mark.parametrize(
    ("splits", "columns", "said"),
    [
        ({"train": 4}, ("image", "label"), "has the splits train; expected 'train' and one of"),
        ({"train": 4, "test": 2}, ("image",), r"the class columns \[\]"),
        ({"train": 4, "test": 2}, ("image", "fine", "coarse"), r"\['fine', 'coarse'\]"),
        ({"train": 4, "test": 2}, ("image", "image2", "label"), r"\['image', 'image2'\]"),
    ],
)
def test_a_set_without_what_is_needed_is_refused(write, splits, columns, said):
    with pytest.raises(DpmixError, match=said):
        load_splits(write(splits, columns))


def test_nothing_is_fetched_unless_asked_for():
    with pytest.raises(DpmixError, match=r"'hf:no-such/set' can't be loaded .*give --download"):
        load_splits("hf:no-such/set")


def test_a_test_fraction_does_not_apply(write):
    with pytest.raises(DpmixError, match=r"--test-fraction 0\.2 does not apply"):
        load_splits(write({"train": 4, "test": 2}), test_fraction=0.2)


def test_without_the_library_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "datasets":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DpmixError, match=r"needs the package datasets: pip install '\.\[hub\]'"):
        load_splits("hf:who/what")
