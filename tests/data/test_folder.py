import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data.decode import decode_sources
from dpmix.data.folder import class_folder_names, class_folders, folder_splits
from dpmix.data.options import ReadOptions
from dpmix.errors import DpmixError

PLAIN = ReadOptions()


def contents(source):
    return {(image.numpy().tobytes(), int(label)) for image, label in
            zip(source.images(torch.arange(len(source))), source.labels, strict=True)}  # fmt: skip


@pytest.fixture
def given(class_folder):
    class_folder("root/train", {"dog": 3, "cat": 2})
    class_folder("root/test", {"cat": 1, "dog": 2})
    return class_folder("root", {})


def test_given_splits(given):
    splits = folder_splits(given, PLAIN, None)
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert splits.test.labels.tolist() == [0, 1, 1]
    assert (splits.name, splits.flip, splits.skipped) == ("root", True, 0)
    expected = np.array(Image.open(given / "test" / "dog" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(splits.test.images(torch.tensor([2]))[0].numpy(), expected)


@pytest.mark.parametrize("missing", ["train", "test"])
def test_half_a_layout(given, missing):
    shutil.rmtree(given / missing)
    with pytest.raises(DpmixError, match=f"no '{missing}' folder"):
        folder_splits(given, PLAIN, None)


def test_a_fraction_does_not_apply_to_given_splits(given):
    with pytest.raises(DpmixError, match=r"--test-fraction 0\.2 does not apply"):
        folder_splits(given, PLAIN, 0.2)


def test_classes_must_agree(given, class_folder):
    class_folder("root/test", {"emu": 1})
    with pytest.raises(DpmixError, match="class emu is in one of train and test only"):
        folder_splits(given, PLAIN, None)


def test_drawn_split_is_a_partition_with_labels(class_folder):
    root = class_folder("flat", {"a": 20, "b": 20})
    splits = folder_splits(root, PLAIN, 0.4)
    train, test = contents(splits.train), contents(splits.test)
    assert not train & test
    names, part = class_folders(root)
    assert len(part.images) == len(part.labels) == 40
    assert names == splits.train.class_names
    (whole,), _ = decode_sources([part], names, PLAIN)
    assert train | test == contents(whole)
    assert len(train) + len(test) == 40


def test_neighbouring_folders_have_neighbouring_train_sets(class_folder):
    root = class_folder("flat", {"a": 12, "b": 12})
    before = folder_splits(root, PLAIN, 0.4)
    train, test = contents(before.train), contents(before.test)
    moved = 0
    for path in sorted((root / "a").iterdir())[:6]:
        kept = path.read_bytes()
        path.unlink()
        after = folder_splits(root, PLAIN, 0.4)
        path.write_bytes(kept)
        gone_train, gone_test = train - contents(after.train), test - contents(after.test)
        assert len(gone_train) + len(gone_test) == 1
        assert contents(after.train) <= train
        assert contents(after.test) <= test
        moved += len(gone_train)
    assert moved > 0


def test_a_flat_folder_without_a_fraction_is_split_and_says_so(class_folder, unchecked):
    root = class_folder("flat", {"a": 20, "b": 20})
    with pytest.warns(UserWarning, match="one image in five.*the guarantee does not cover those"):
        splits = folder_splits(root, PLAIN, None)
    assert splits.test.labels.tolist() == folder_splits(root, PLAIN, 0.2).test.labels.tolist()


def test_missing_folder(tmp_path):
    with pytest.raises(DpmixError, match="no folder"):
        folder_splits(tmp_path / "gone", PLAIN, None)
    with pytest.raises(DpmixError, match="no folder"):
        class_folders(tmp_path / "gone")


def test_corrupt_files_of_both_splits_are_named_or_skipped(given, truncate):
    truncate(given / "train" / "dog" / "0.png")
    truncate(given / "test" / "dog" / "1.png")
    with pytest.raises(DpmixError, match=r"^2 image.*'train/dog/0\.png'.*'test/dog/1\.png'"):
        folder_splits(given, PLAIN, None)
    splits = folder_splits(given, ReadOptions(skip_corrupt=True), None)
    assert (splits.skipped, len(splits.train), len(splits.test)) == (2, 4, 2)


def test_a_class_that_skipping_empties_is_named(given, truncate):
    truncate(given / "test" / "cat" / "0.png")
    with pytest.raises(DpmixError, match="no test image of class cat"):
        folder_splits(given, ReadOptions(skip_corrupt=True), None)


def test_class_folder_names_look_at_folders_alone(class_folder):
    root = class_folder("flat", {"b": 1, "a": 1})
    (root / "notes.txt").write_text("not a class")
    (root / "a" / "0.png").unlink()
    assert class_folder_names(root) == ("a", "b")
    class_folder("split/train", {"c": 1, "a": 1})
    class_folder("split/test", {"a": 1, "c": 1})
    assert class_folder_names(root.parent / "split") == ("a", "c")


def test_class_folder_names_of_a_folder_without_classes_are_refused(tmp_path):
    with pytest.raises(DpmixError, match="holds no class folders"):
        class_folder_names(tmp_path)
    with pytest.raises(DpmixError, match="no folder"):
        class_folder_names(tmp_path / "gone")
