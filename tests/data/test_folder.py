import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data.folder import folder_splits, labelled_folder
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
    assert train | test == contents(labelled_folder(root))
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


def test_a_flat_folder_needs_a_fraction(class_folder):
    with pytest.raises(DpmixError, match="give --test-fraction"):
        folder_splits(class_folder("flat", {"a": 2, "b": 2}), PLAIN, None)


def test_missing_folder(tmp_path):
    with pytest.raises(DpmixError, match="no folder"):
        folder_splits(tmp_path / "gone", PLAIN, None)
    with pytest.raises(DpmixError, match="no folder"):
        labelled_folder(tmp_path / "gone")


def test_corrupt_files_of_both_splits_are_named_or_skipped(given, truncate):
    truncate(given / "train" / "dog" / "0.png")
    truncate(given / "test" / "dog" / "1.png")
    with pytest.raises(DpmixError, match=r"2 of 8 .*'train/dog/0\.png'.*'test/dog/1\.png'"):
        folder_splits(given, PLAIN, None)
    splits = folder_splits(given, ReadOptions(skip_corrupt=True), None)
    assert (splits.skipped, len(splits.train), len(splits.test)) == (2, 4, 2)


def test_a_class_that_skipping_empties_is_named(given, truncate):
    truncate(given / "test" / "cat" / "0.png")
    with pytest.raises(DpmixError, match="no test image of class cat"):
        folder_splits(given, ReadOptions(skip_corrupt=True), None)


def test_labelled_folder_takes_its_options(class_folder):
    root = class_folder("pool", {"a": 2, "b": 1}, mode="RGBA", width=13)
    seen = []
    source = labelled_folder(
        root, image_size=6, channels=3, progress=lambda *step: seen.append(step)
    )
    assert source.image_shape == (3, 6, 6)
    assert source.labels.tolist() == [0, 0, 1]
    assert seen[-1] == (3, 3)
