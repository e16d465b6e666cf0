"""Class names from metadata, without looking at an image or a label."""

import numpy as np
import pytest

from dpmix.data.named import BUILT_IN, class_list, load_splits
from dpmix.errors import DpmixError


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_data_set_has_a_list(name):
    assert class_list(name) == load_splits(name).train.class_names


def test_a_folder_gives_its_class_folders(class_folder):
    root = class_folder("root/train", {"dog": 1, "cat": 1}).parent
    class_folder("root/test", {"dog": 1, "cat": 1})
    assert class_list(str(root)) == ("cat", "dog")
    assert class_list(str(root / "train")) == ("cat", "dog")


def test_no_image_is_opened(class_folder):
    root = class_folder("root", {"dog": 1, "cat": 1})
    (root / "dog" / "0.png").write_bytes(b"no image at all")
    assert class_list(str(root)) == ("cat", "dog")


@pytest.mark.parametrize("key", ["class_names", "classes", "names"])
def test_an_npz_gives_its_names_and_its_other_arrays_are_not_read(tmp_path, key):
    path = tmp_path / "a.npz"
    # Reading this array would be refused: it holds Python objects.
    np.savez(path, y_train=np.array([object()]), **{key: np.array(["ant", "bee"])})
    assert class_list(str(path)) == ("ant", "bee")


def test_an_npz_without_names_is_refused(digits_npz):
    with pytest.raises(DpmixError, match=r"tiny.npz has no class names, only labels"):
        class_list(str(digits_npz))


def test_a_set_of_torchvisions_has_to_be_named_by_hand():
    with pytest.raises(DpmixError, match="of data set 'eurosat' are not read apart from"):
        class_list("eurosat")


def test_nothing_there_is_refused():
    with pytest.raises(DpmixError, match="unknown data 'mnist'"):
        class_list("mnist")
