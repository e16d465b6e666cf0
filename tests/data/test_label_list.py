"""Folders of images with several labels each, read through a CSV."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpmix.data import load_splits
from dpmix.data.label_values import label_matrix
from dpmix.errors import DpmixError
from pictures import noise_picture

HEADER = "file,cough,fever"
LINES = (
    "train/1.png,1,0", "train/2.png,0,1", "train/x/3.png,,-1", "test/4.png,1,1", "test/5.png,0,0",
)  # fmt: skip


@pytest.fixture
def scans(tmp_path):
    """`scans/{train,test}` with five images, and how to read them with the lines of a CSV."""
    root = tmp_path / "scans"
    for seed, line in enumerate(LINES):
        path = root / line.partition(",")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        noise_picture("RGB", 8, 8, seed).save(path)

    def read(lines=LINES, header=HEADER, **options):
        listed = tmp_path / "labels.csv"
        listed.write_text("\n".join([header, *lines]) + "\n")
        options = {"task": "multi-label", "labels": str(listed)} | options
        return load_splits(str(root), **options)

    read.root = root
    return read


def test_labels_as_people_write_them(scans):
    splits = scans()
    assert splits.train.class_names == ("cough", "fever")
    assert splits.train.labels.tolist() == [[1, 0], [0, 1], [-1, -1]]
    assert splits.test.labels.tolist() == [[1, 1], [0, 0]]
    assert (splits.held_out, splits.train.names[2]) == ("the test folder", "train/x/3.png")
    floats = ["train/1.png,1.0,0.0", "train/2.png,0.0,1.0", "3.png,nan,-1.0", *LINES[3:]]
    assert scans(floats).train.labels.tolist() == splits.train.labels.tolist()


def test_columns_are_chosen_and_ordered_by_name(scans):
    lines = [f"{line},F,{i}" for i, line in enumerate(LINES)]
    splits = scans(lines, f"{HEADER},sex,age", label_columns=("fever", "cough"))
    assert splits.train.class_names == ("fever", "cough")
    assert splits.train.labels.tolist() == [[0, 1], [1, 0], [-1, -1]]
    with pytest.raises(DpmixError, match=r"line 2: 'sex' is 'F'; expected 1, 0.*--label"):
        scans(lines, f"{HEADER},sex,age")
    with pytest.raises(DpmixError, match=r"has no label 'coug'.*cough"):
        scans(label_columns=("coug",))


def test_a_split_is_drawn_if_asked_for(scans):
    lines = [f"train/{i}.png,{i % 2},{i // 2 % 2}" for i in range(40)]
    for seed in range(40):
        noise_picture("RGB", 8, 8, seed).save(scans.root / "train" / f"{seed}.png")
    splits = scans(lines, test_fraction=0.5)
    names = (*splits.train.names, *splits.test.names)
    assert sorted(names) == sorted(line.partition(",")[0] for line in lines)
    assert "each by the hash of its path" in splits.held_out


def test_images_that_are_not_listed_are_left_out_and_counted(scans, unchecked):
    noise_picture("RGB", 8, 8, 9).save(scans.root / "train" / "9.png")
    with pytest.warns(UserWarning, match="1 image.s. are not in labels .* such as 'train/9.png'"):
        assert len(scans().train) == 3


@pytest.mark.parametrize(("lines", "message"), [
    ([*LINES, *(f"train/gone{i}.png,1,1" for i in range(7))],
     r"name 7 file.s. that are no images in .*: train/gone0.png, .*train/gone4.png, \.\.\.;"),
    ([*LINES, "train/1.png,1,1"], r"lines 2 and 7 say different things of 'train/1.png'"),
    (["train/1.png,2,0", *LINES[1:]], "label 'cough' is 2 in line 2; expected 1, 0, or -1"),
    (["train/1.png,0.5,0", *LINES[1:]], "label 'cough' is 0.5 in line 2"),
    (["train/1.png,yes,0", *LINES[1:]], "line 2: 'cough' is 'yes'; expected 1, 0, or -1"),
    (["train/1.png,1,1", *LINES[1:]], "among the train images label 'fever' is always 1; expected"),
    (["train/1.png,1,", "train/2.png,0,", *LINES[2:]], "train images label 'fever' is never known"),
    ([*LINES[:4], "test/5.png,0,1"], "among the test images label 'fever' is always 1"),
    ([*LINES[:3], "test/4.png,,1", LINES[4]], "among the test images label 'cough' is always 0"),
    ([LINES[0], LINES[1]], "list no image of 'train' or 'test'"),
    ([], "lists no file"),
])  # fmt: skip
def test_lists_that_do_not_give_labels_are_refused(scans, lines, message):
    with pytest.raises(DpmixError, match=message):
        scans(lines)


def test_the_same_line_twice_is_one(scans):
    assert scans([*LINES, LINES[0]]).train.labels.tolist() == scans().train.labels.tolist()


@pytest.mark.parametrize(("options", "message"), [
    ({"labels": None}, "task multi-label needs the labels of the images .* give --labels FILE"),
    ({"task": "single-label"}, "labels is '.*', and the task is single-label; give --task multi"),
    ({"classes": 2}, "classes is 2, and each image has several labels; .* --label-column"),
])  # fmt: skip
def test_settings_that_do_not_fit_are_refused(scans, options, message):
    with pytest.raises(DpmixError, match=message):
        scans(**options)


def test_other_data_with_or_without_several_labels(tmp_path):
    for data, options, message in (
        ("mnist5k", {"task": "multi-label"}, "does not apply to data 'mnist5k'"),
        ("mnist5k", {"task": "multi-label", "labels": "x.csv"}, "labels 'x.csv' does not apply"),
        ("mnist5k", {"label_columns": ("a",)}, "label_columns is 'a', and the task is single"),
    ):
        with pytest.raises(DpmixError, match=message):
            load_splits(data, **options)


def test_persons_keep_their_images_together(scans, tmp_path):
    persons = tmp_path / "persons.csv"
    owners = ["a", "a", "b", "c", "d"]
    lines = [f"{line.partition(',')[0]},{p}" for line, p in zip(LINES, owners, strict=True)]
    persons.write_text("\n".join(["file,person", *lines]))
    splits = scans(persons=str(persons))
    assert splits.train.persons.names == ("a", "b")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([0, 1, -1]), min_size=2, max_size=2), min_size=1))
def test_numbers_of_every_kind_are_the_same_labels(rows):
    expected = torch.tensor(rows)
    for kind in (np.int8, np.int64, np.float16, np.float64):
        values = np.array(rows).astype(kind)
        if np.dtype(kind).kind == "f":
            values[values == -1] = np.nan
        assert torch.equal(label_matrix(values, "ab", "x", str), expected)


def npz(path, labels, **more):
    images = np.zeros((4, 6, 6), dtype=np.uint8)
    images += np.arange(4, dtype=np.uint8)[:, None, None]
    np.savez(path, x_train=images, y_train=labels, x_test=images + 9, y_test=labels, **more)
    return load_splits(str(path), task="multi-label")


def test_npz_arrays_of_labels(tmp_path):
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, -1]])
    splits = npz(tmp_path / "a.npz", labels.astype(np.int8))
    assert splits.train.class_names == ("0", "1")
    assert splits.train.labels.tolist() == labels.tolist()
    missing = np.where(labels == -1, np.nan, labels).astype(np.float32)
    splits = npz(tmp_path / "b.npz", missing, class_names=np.array(["cough", "fever"]))
    assert splits.train.labels.tolist() == labels.tolist()
    part = load_splits(str(tmp_path / "b.npz"), task="multi-label", label_columns=("fever",))
    assert (part.train.class_names, part.train.labels.tolist()) == (
        ("fever",),
        [[0], [1], [1], [-1]],
    )
    for labels, message in (
        (np.arange(4), r"'y_train' is int64 \[4\]; expected \[4, L\], one column for each label"),
        (np.array([[0, 3]] * 4), "label '1' is 3 in row 0, and 3 more"),
    ):
        with pytest.raises(DpmixError, match=message):
            npz(tmp_path / "c.npz", labels)
    with pytest.raises(DpmixError, match="images have 2 labels, test images 2, and there are 1 na"):
        npz(tmp_path / "d.npz", missing, class_names=np.array(["cough"]))
    with pytest.raises(DpmixError, match="of several labels an image --task multi-label"):
        load_splits(str(tmp_path / "b.npz"))
