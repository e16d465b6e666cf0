"""`hf:NAME` on a real data set of the library's own format, written to disk by it."""

import builtins

import numpy as np
import pytest
import torch
from pyarrow import parquet

from dpmix.data import load_splits
from dpmix.data.named import public_name
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


def test_of_several_columns_those_called_image_and_label_are_taken(write):
    data = write({"train": 4, "test": 2}, ("image", "image2", "coarse", "label"))
    assert len(load_splits(data).train) == 4
    assert load_splits(data, image_size=5, channels=1).train.image_shape == (1, 5, 5)
    with pytest.raises(DpmixError, match=r"--test-fraction 0\.2 does not apply"):
        load_splits(data, test_fraction=0.2)


def stored(root, **sides):
    """root/<side>.parquet of `sides`, each a list of (image, label)."""
    root.mkdir(parents=True, exist_ok=True)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    )
    for side, rows in sides.items():
        table = {"image": [row[0] for row in rows], "label": [row[1] for row in rows]}
        made = datasets.Dataset.from_dict(table, features=features)
        parquet.write_table(made.data.table, root / f"{side}.parquet")  # lost files stay lost
    return f"hf:{root}"


def rows(count, seed=0):
    return [(noise_picture("RGB", 8, 9, seed + i), i % 2) for i in range(count)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_row_without_an_image_counts_as_corrupt(tmp_path):
    train, test = rows(6), rows(4, seed=50)
    lost = {"bytes": None, "path": "gone/1.png"}
    bad = [*train[:3], (None, 1), *train[3:], (lost, 0)]
    data = stored(tmp_path / "set", train=bad, test=test)
    with pytest.raises(DpmixError, match=r"^2 image.*'train\[3\]' \(the row has no image\), "
                       r"'train\[7\]' \(its file 'gone/1.png' is not there\)"):  # fmt: skip
        load_splits(data)
    with pytest.warns(UserWarning, match=r"^left out: 2 image.*'train\[3\]'"):
        splits = load_splits(data, skip_corrupt=True)
    whole = load_splits(stored(tmp_path / "whole", train=train, test=test))
    everything = torch.arange(6)
    assert torch.equal(splits.train.images(everything), whole.train.images(everything))
    assert torch.equal(splits.train.labels, whole.train.labels)


@pytest.mark.parametrize("label", [None, -1])
@pytest.mark.parametrize("side", ["train", "test"])
def test_a_row_without_a_class_is_named(tmp_path, label, side):
    sides = {"train": rows(6), "test": rows(4, seed=50)}
    sides[side][2] = (sides[side][2][0], label)
    with pytest.raises(DpmixError, match=rf"split '{side}' has the label {label} in row 2; "):
        load_splits(stored(tmp_path / "set", **sides))


@pytest.mark.parametrize("label", [None, -1])
def test_a_test_split_without_any_label_gives_way_to_validation(tmp_path, label, unchecked):
    secret = [(image, label) for image, _ in rows(4, seed=50)]
    data = stored(tmp_path / "set", train=rows(6), test=secret, validation=rows(2, seed=90))
    with pytest.warns(UserWarning, match="'test' has no labels and is not used"):
        assert len(load_splits(data).test) == 2
    alone = stored(tmp_path / "alone", train=rows(6), test=secret)
    with pytest.raises(DpmixError, match=rf"split 'test' has the label {label} in row 0 \(and 3"):
        load_splits(alone)


def test_a_set_that_does_not_load_says_why(tmp_path):
    """The innermost reason: the library's outermost is only that there was one."""
    data = stored(tmp_path / "set", train=rows(6), test=rows(2))
    (tmp_path / "set" / "test.parquet").write_bytes(b"no parquet at all, but long enough")
    with pytest.raises(DpmixError, match=r"can't be loaded \(.*[Pp]arquet.*\); expected a folder"):
        load_splits(data)


@pytest.mark.parametrize("several", ["image", "label"])
def test_several_to_a_row_are_refused(tmp_path, several):
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)}
    table = {"image": [image for image, _ in rows(4)], "label": [0, 1, 0, 1]}
    kinds[several] = datasets.Sequence(kinds[several])
    table[several] = [[value, value] for value in table[several]]
    (tmp_path / "set").mkdir()
    for side in ("train", "test"):
        made = datasets.Dataset.from_dict(table, features=datasets.Features(kinds))
        made.to_parquet(tmp_path / "set" / f"{side}.parquet")
    with pytest.raises(DpmixError, match=r"a list of \w+ in a row; several per image are not"):
        load_splits(f"hf:{tmp_path / 'set'}")


def test_images_without_classes_are_refused(tmp_path):
    for side in ("train", "test"):
        (tmp_path / "flat" / side).mkdir(parents=True)
        for seed in range(3):
            noise_picture("RGB", 8, 8, seed).save(tmp_path / "flat" / side / f"{seed}.png")
    with pytest.raises(DpmixError, match=r"label None in row 0 \(and 2 more\)|no column of kind"):
        load_splits(f"hf:{tmp_path / 'flat'}")


def configured(root):
    """A set of two configurations, `few` and `many`."""
    lines = ["---", "configs:"]
    for name, count in (("few", 4), ("many", 6)):
        stored(root / name, train=rows(count), test=rows(2, seed=50))
        lines += [f"- config_name: {name}", "  data_files:"]
        for side in ("train", "test"):
            lines += [f"  - split: {side}", f"    path: {name}/{side}*"]
    (root / "README.md").write_text("\n".join([*lines, "---"]))
    return f"hf:{root}"


@pytest.mark.parametrize(("name", "count"), [("few", 4), ("many", 6)])
def test_a_configuration_is_chosen_by_its_name(tmp_path, name, count):
    assert len(load_splits(f"{configured(tmp_path / 'set')}:{name}").train) == count


@pytest.mark.parametrize("more", ["", ":none"])
def test_configurations_are_named(tmp_path, more):
    data = configured(tmp_path / "set")
    with pytest.raises(DpmixError, match=f"configurations few, many; .* give {data}:few"):
        load_splits(data + more)


def test_a_folder_with_a_colon_in_its_name_is_a_folder(tmp_path):
    stored(tmp_path / "study:few", train=rows(4), test=rows(2, seed=50))
    assert len(load_splits(f"hf:{tmp_path / 'study:few'}").train) == 4


def test_a_configuration_of_a_public_set_is_public():
    assert public_name("hf:owner/name:few") == "hf:owner/name:few"
    assert "study" not in public_name("hf:./study:few")
    assert "study" not in public_name("hf:/data/study:few")


@pytest.mark.parametrize(
    ("splits", "columns", "said"),
    [
        ({"train": 4}, ("image", "label"), "has the splits train; expected 'train', and 'test' or"),
        ({"train": 4, "test": 2}, ("image",), r"no column of kind ClassLabel, only: image"),
        ({"train": 4, "test": 2}, ("label",), r"no column of kind Image, only: label \(int64\)"),
        ({"train": 4, "test": 2}, ("image", "fine", "coarse"), "label columns: fine, coarse"),
        ({"train": 4, "test": 2}, ("image1", "image2", "label"), "image columns: image1, image2"),
    ],
)
def test_a_set_without_what_is_needed_is_refused(write, splits, columns, said):
    with pytest.raises(DpmixError, match=said):
        load_splits(write(splits, columns))


def test_nothing_is_fetched_unless_asked_for():
    with pytest.raises(DpmixError, match=r"'hf:no-such/set' can't be loaded .*give --download"):
        load_splits("hf:no-such/set")


def test_without_the_library_the_remedy_is_named(monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name == "datasets":
            raise ImportError
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(DpmixError, match=r"package datasets: pip install 'dp-mix-images\[hub\]'"):
        load_splits("hf:who/what")
