from pathlib import Path

import numpy as np
import pytest

from dpmix.data import load_splits
from dpmix.data.named import class_list
from dpmix.errors import DpmixError


@pytest.fixture
def npz(tmp_path):
    images = np.zeros((4, 6, 5), dtype=np.uint8)
    labels = np.arange(4) % 2
    np.savez(tmp_path / "set.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    return str(tmp_path / "set.npz")


def test_dispatches_by_kind(npz, class_folder):
    root = class_folder("flat", {"a": 20, "b": 20})
    assert load_splits("mnist5k").name == "mnist5k"
    assert load_splits(npz, image_size=3).train.image_shape == (1, 3, 3)
    folder = load_splits(str(root), test_fraction=0.5, channels=1, workers=1)
    assert folder.train.image_shape == (1, 8, 8)


def test_a_built_in_name_goes_before_a_folder(class_folder, monkeypatch):
    monkeypatch.chdir(class_folder("mnist5k", {"a": 1}).parent)
    assert len(load_splits("mnist5k").train) == 4000
    with pytest.raises(DpmixError, match="holds no images"):
        load_splits("./mnist5k", test_fraction=0.5)


def test_options_that_do_not_apply_are_refused(npz):
    for data in (npz, "mnist5k"):
        with pytest.raises(DpmixError, match=r"--test-fraction 0\.2 does not apply"):
            load_splits(data, test_fraction=0.2)
        with pytest.raises(DpmixError, match="--skip-corrupt does not apply"):
            load_splits(data, skip_corrupt=True)


def test_a_class_that_a_terminal_would_obey_is_refused(class_folder):
    root = class_folder("flat", {"a": 20, "b\x1b[31m": 20})
    with pytest.raises(DpmixError, match=r"holds a character that is not to be printed"):
        load_splits(str(root), test_fraction=0.5)


def test_unknown_names_get_a_hint():
    with pytest.raises(DpmixError, match=r"unknown data 'mnist'.*did you mean 'mnist5k'"):
        load_splits("mnist")


@pytest.mark.parametrize("data", [
    "gone.npz", "GONE.NPZ", "some/where", "/no/such/folder", "hf:./gone", "hf:/gone:few",
    "hf:~/gone",
])  # fmt: skip
def test_missing_paths_are_called_missing(data):
    said = {"hf:/gone:few": "/gone", "hf:~/gone": str(Path.home() / "gone")}
    place = said.get(data, data.removeprefix("hf:"))
    with pytest.raises(DpmixError, match=f"no file or folder '{place}'"):
        load_splits(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [("~no-such-user/x", "the home folder of no known user"), ("a/" * 3000, "cannot be looked at")],
)
def test_paths_that_cannot_be_looked_at_are_one_line(data, said):
    for text in (data, f"hf:./{data}" if data[0] != "~" else f"hf:{data}"):
        with pytest.raises(DpmixError, match=said):
            load_splits(text)
        with pytest.raises(DpmixError, match=r"no known|looked at|read apart"):
            class_list(text)


def test_a_file_of_another_kind(tmp_path):
    (tmp_path / "data.csv").write_text("1,2")
    with pytest.raises(DpmixError, match="neither a folder nor an"):
        load_splits(str(tmp_path / "data.csv"))
