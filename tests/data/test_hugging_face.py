"""`hf:NAME` on real data sets of the library's own format, written to disk by it."""

import numpy as np
import pytest
import torch
from pyarrow import parquet

from dpmix.data import load_splits
from dpmix.errors import DpmixError
from pictures import noise_picture

datasets = pytest.importorskip("datasets")
IMAGE, LABEL = datasets.Image(), datasets.ClassLabel(names=["ant", "bee"])
KINDS = {"image": IMAGE, "label": LABEL}
SIX, FOUR = {"train": 6, "test": 4}, {"train": 4, "test": 2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def rows(count, seed=0):
    images = [noise_picture("RGB", 8, 9, seed + i) for i in range(count)]
    return {"image": images, "label": [i % 2 for i in range(count)]}


def stored(root, sides, kinds=KINDS):
    """root/<side>.parquet; each side is a number of images, or its rows."""
    root.mkdir(parents=True, exist_ok=True)
    for seed, (side, table) in enumerate(sides.items()):
        table = rows(table, 100 * seed) if isinstance(table, int) else table
        table = {name: table.get(name, table["image" if kind == IMAGE else "label"])
                 for name, kind in kinds.items()}  # fmt: skip
        made = datasets.Dataset.from_dict(table, features=datasets.Features(kinds))
        parquet.write_table(made.data.table, root / f"{side}.parquet")  # lost files stay lost
    return f"hf:{root}"


@pytest.mark.parametrize("other", ["test", "validation"])
def test_both_splits_are_read_with_names_labels_and_pixels(tmp_path, unchecked, other):
    data = stored(tmp_path / "set", {"train": 6, other: 4})
    splits = load_splits(data)
    assert (splits.name, splits.train.class_names) == ("set", ("ant", "bee"))
    assert splits.train.labels.tolist() == [0, 1] * 3
    assert len(splits.test) == 4
    for source, seed in ((splits.train, 0), (splits.test, 100)):
        for i in range(len(source)):
            expected = np.asarray(noise_picture("RGB", 8, 9, seed + i)).transpose(2, 0, 1)
            assert np.array_equal(source.images(torch.tensor([i]))[0].numpy(), expected)
    assert load_splits(data, image_size=5, channels=1).train.image_shape == (1, 5, 5)
    with pytest.raises(DpmixError, match=r"--test-fraction 0\.2 does not apply"):
        load_splits(data, test_fraction=0.2)


def test_of_several_columns_those_called_image_and_label_are_taken(tmp_path):
    kinds = KINDS | {"image2": IMAGE, "coarse": LABEL}
    assert len(load_splits(stored(tmp_path / "set", FOUR, kinds)).train) == 4


def test_a_row_without_an_image_counts_as_corrupt(tmp_path):
    whole = rows(6)
    images = [*whole["image"][:3], None, *whole["image"][3:], {"bytes": None, "path": "gone/1.png"}]
    bad = {"image": images, "label": [0, 1, 0, 1, 1, 0, 1, 0]}
    data = stored(tmp_path / "set", {"train": bad, "test": 4})
    with pytest.raises(DpmixError, match=r"^2 image.*'train\[3\]' \(the row has no image\), "
                       r"'train\[7\]' \(its file 'gone/1.png' is not there\)"):  # fmt: skip
        load_splits(data)
    with pytest.warns(UserWarning, match=r"^left out: 2 image.*'train\[3\]'"):
        splits = load_splits(data, skip_corrupt=True)
    clean, everything = load_splits(stored(tmp_path / "whole", SIX)), torch.arange(6)
    assert torch.equal(splits.train.images(everything), clean.train.images(everything))
    assert torch.equal(splits.train.labels, clean.train.labels)


@pytest.mark.parametrize("label", [None, -1])
def test_a_row_without_a_class_is_named(tmp_path, unchecked, label):
    for side in ("train", "test"):
        bad = rows(4) | {"label": [0, 1, label, 1]}
        data = stored(tmp_path / side, SIX | {side: bad})
        with pytest.raises(DpmixError, match=rf"split '{side}' has the label {label} in row 2"):
            load_splits(data)
    secret = {"train": 6, "test": rows(4) | {"label": [label] * 4}}
    data = stored(tmp_path / "set", secret | {"validation": 2})
    with pytest.warns(UserWarning, match="'test' has no labels and is not used"):
        assert len(load_splits(data).test) == 2


@pytest.mark.parametrize(
    ("sides", "kinds", "said"),
    [
        ({"train": 4}, KINDS, "has the splits train; expected 'train', and 'test' or"),
        (FOUR, {"image": IMAGE}, r"has 0 columns of kind datasets.ClassLabel in: image"),
        (FOUR, {"label": LABEL}, "has 0 columns of kind datasets.Image in: label; expected"),
        (FOUR, {"image": IMAGE, "fine": LABEL, "coarse": LABEL}, "has 2 columns of kind"),
    ],
)
def test_a_set_without_what_is_needed_is_refused(tmp_path, sides, kinds, said):
    with pytest.raises(DpmixError, match=said):
        load_splits(stored(tmp_path / "set", sides, kinds))


def test_a_configuration_is_chosen_by_its_name(tmp_path):
    root = tmp_path / "set"
    lines = ["---", "configs:"]
    for name, sides in (("few", FOUR), ("many", SIX)):
        stored(root / name, sides)
        lines += [f"- config_name: {name}", "  data_files:"]
        for side in sides:
            lines += [f"  - split: {side}", f"    path: {name}/{side}*"]
    (root / "README.md").write_text("\n".join([*lines, "---"]))
    assert len(load_splits(f"hf:{root}:few").train) == 4
    assert len(load_splits(f"hf:{root}:many").train) == 6
    for more in ("", ":none"):
        with pytest.raises(DpmixError, match=r"can't be loaded .*'few', 'many'.*:CONFIGURATION"):
            load_splits(f"hf:{root}{more}")


def test_nothing_is_fetched_unless_asked_for():
    with pytest.raises(DpmixError, match=r"'hf:no-such/set' can't be loaded .*--download"):
        load_splits("hf:no-such/set")


def test_a_column_names_the_persons(tmp_path):
    kinds = KINDS | {"subject": datasets.Value("string")}
    sides = {
        side: rows(6, seed) | {"subject": [f"{side}{i // 2}" for i in range(6)]}
        for seed, side in enumerate(("train", "test"))
    }
    data = stored(tmp_path / "set", sides, kinds)
    splits = load_splits(data, person_column="subject")
    assert splits.train.persons.owner.tolist() == [0, 0, 1, 1, 2, 2]
    assert load_splits(data).train.persons is None
    with pytest.raises(DpmixError, match="has no column 'subjekt': did you mean 'subject'"):
        load_splits(data, person_column="subjekt")
    sides["train"]["subject"][3] = None
    data = stored(tmp_path / "other", sides, kinds)
    with pytest.raises(DpmixError, match=r"names no person in 1 row.s., such as row 3"):
        load_splits(data, person_column="subject")


def test_several_labels_as_a_list_of_classes_or_as_columns(tmp_path):
    several = {"train": 4, "test": 4}
    lists = [[0], [1], [0, 1], []]
    tables = {side: rows(count) | {"labels": lists} for side, count in several.items()}
    kinds = {"image": IMAGE, "labels": datasets.Sequence(LABEL)}
    splits = load_splits(stored(tmp_path / "lists", tables, kinds), task="multi-label")
    assert splits.train.class_names == ("ant", "bee")
    assert splits.train.labels.tolist() == [[1, 0], [0, 1], [1, 1], [0, 0]]
    columns = {"cough": [1, 0, None, -1], "fever": [0, 1, 1, 0]}
    kinds = {"image": IMAGE} | dict.fromkeys(columns, datasets.Value("int8"))
    data = stored(tmp_path / "columns", {s: rows(4) | columns for s in several}, kinds)
    splits = load_splits(data, task="multi-label", label_columns=("fever", "cough"))
    assert splits.test.labels.tolist() == [[0, 1], [1, 0], [1, -1], [0, -1]]
    with pytest.raises(DpmixError, match="has 0 columns with lists of classes in: image, cough"):
        load_splits(data, task="multi-label")
    with pytest.raises(DpmixError, match="has no label 'rash'"):
        load_splits(data, task="multi-label", label_columns=("rash",))
    with pytest.raises(DpmixError, match=r"column 'image' holds .* in row 0 of 'train'; expec"):
        load_splits(data, task="multi-label", label_columns=("image",))


def test_a_column_of_other_answers_than_no_and_yes_is_refused(tmp_path):
    answers = {"cough": [0, 1, 1, 0]}
    for number, (names, fits) in enumerate(
        (
            (["no", "yes"], True),
            (["yes", "no"], False),
            (["cough", "rash"], False),
            (["0", "1"], True),
        )
    ):
        kinds = {"image": IMAGE, "cough": datasets.ClassLabel(names=names)}
        sides = {side: rows(4) | answers for side in ("train", "test")}
        data = stored(tmp_path / f"set{number}", sides, kinds)
        options = {"task": "multi-label", "label_columns": ("cough",)}
        if fits:
            assert load_splits(data, **options).train.labels[:, 0].tolist() == answers["cough"]
            continue
        with pytest.raises(DpmixError, match=f"and 1 stands for '{names[1]}'; expected a label"):
            load_splits(data, **options)
