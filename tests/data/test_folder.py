import shutil
import warnings
from unicodedata import normalize

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import given as given_any
from hypothesis import strategies as st
from PIL import Image

from dpmix.data.decode import decode_sources
from dpmix.data.folder import class_folder_names, class_folders, folder_splits
from dpmix.data.image import ReadOptions
from dpmix.data.split_names import side_of
from dpmix.errors import DpmixError
from pictures import noise_picture, write_class_folders

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
    assert (splits.name, splits.flip) == ("root", True)
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
    with pytest.raises(DpmixError, match="class emu is in 'test' only; expected the same class"):
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


SPELLINGS = st.sampled_from(["train", "training", "test", "testing", "val", "valid", "validation"])


@st.composite
def spelt(draw, side=None):
    """A name of `side`, or of any split, in letters of any case."""
    plain = draw(
        SPELLINGS if side is None else SPELLINGS.filter(lambda name: side_of(name) == side)
    )
    name = plain + draw(st.sampled_from(["", "set", "_set", "-set", " set"]))
    return "".join(draw(st.sampled_from([c.upper(), c.lower()])) for c in name)


@given_any(spelt("train"), st.one_of(spelt("test"), spelt("val")))
def test_splits_in_any_spelling_are_splits(tmp_path_factory, train, test):
    root = tmp_path_factory.mktemp("data")
    for side in (train, test):
        write_class_folders(root / side, 1, np.random.default_rng(len(side)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        splits = folder_splits(root, PLAIN, None)
    assert splits.train.class_names == class_folder_names(root) == ("disc", "stripes")
    assert all(name.startswith(f"{train}/") for name in splits.train.names)
    assert all(name.startswith(f"{test}/") for name in splits.test.names)


@given_any(spelt(), spelt())
def test_splits_are_never_classes(tmp_path_factory, one, other):
    assume(one != other)
    root = tmp_path_factory.mktemp("data")
    for name in (one, other):
        (root / name).mkdir()
        noise_picture("RGB", 8, 8, len(name)).save(root / name / "1.png")
    for fraction in (None, 0.5):
        with pytest.raises(DpmixError, match=r"splits without class folders|both name the"):
            folder_splits(root, PLAIN, fraction)
    with pytest.raises(DpmixError, match=r"splits without class folders|both name the"):
        class_folder_names(root)


@pytest.mark.parametrize("name", ["train", "Test", "valid"])
def test_a_class_that_is_named_as_a_split_needs_the_fraction(class_folder, name):
    root = class_folder("vehicles", {"bus": 9, "car": 9, name: 9})
    with pytest.raises(DpmixError, match=f"'{name}' is the name of .* give --test-fraction 0.2"):
        folder_splits(root, PLAIN, None)
    splits = folder_splits(root, PLAIN, 0.4)
    assert splits.train.class_names == class_folder_names(root)
    assert set(splits.train.class_names) == {"bus", "car", name}


def test_test_images_without_classes_are_refused_with_what_helps(given, class_folder):
    shutil.rmtree(given / "test")
    (given / "test").mkdir()
    (given / "test" / "1.png").write_bytes(b"-")
    with pytest.raises(DpmixError, match=r"'test' is the name .*/train --test-fraction 0\.2"):
        folder_splits(given, PLAIN, None)


@pytest.mark.parametrize("other", ["Train", "training", "TRAIN_SET"])
def test_two_folders_of_one_split_are_refused(given, class_folder, other):
    class_folder(f"root/{other}", {"dog": 1, "cat": 1})
    for read in (lambda: folder_splits(given, PLAIN, None), lambda: class_folder_names(given)):
        with pytest.raises(DpmixError, match="which both name the train split; expected one"):
            read()


def test_next_to_test_images_validation_images_are_not_used(given, class_folder, unchecked):
    alone = folder_splits(given, PLAIN, None)
    class_folder("root/val", {"dog": 1, "cat": 1}, seed=50)
    with pytest.warns(UserWarning, match="'val' is not used: neither trained on nor judged on"):
        both = folder_splits(given, PLAIN, None)
    assert contents(both.train) == contents(alone.train)
    assert contents(both.test) == contents(alone.test)


def test_without_test_images_validation_images_are_judged_on(given, class_folder, unchecked):
    alone = folder_splits(given, PLAIN, None)
    (given / "test").rename(given / "Validation")
    with pytest.warns(UserWarning, match="no test split: the model is judged on 'Validation'"):
        assert contents(folder_splits(given, PLAIN, None).test) == contents(alone.test)


def test_folders_next_to_the_splits_are_told_of(given, class_folder, unchecked):
    class_folder("root/unlabelled", {"all": 1})
    with pytest.warns(UserWarning, match="no split, so left out: unlabelled"):
        assert len(folder_splits(given, PLAIN, None).train) == 5


def test_names_in_two_unicode_forms_are_one_class(class_folder):
    for side, form in (("train", "NFC"), ("test", "NFD")):
        names = {normalize(form, name): 1 for name in ("café", "thé", "tee")}
        class_folder(f"root/{side}", names, seed=len(side))
    splits = folder_splits(class_folder("root", {}), PLAIN, None)
    assert splits.train.class_names == splits.test.class_names == ("café", "tee", "thé")


def test_two_folders_whose_names_look_the_same_are_refused(class_folder):
    root = class_folder("flat", {normalize("NFC", "é"): 1, normalize("NFD", "é"): 1, "a": 1})
    with pytest.raises(DpmixError, match="differ only in their Unicode form"):
        class_folders(root)


def test_files_that_are_no_images_are_counted_once_for_both_splits(given, unchecked):
    for place in ("train/cat/1.heic", "train/dog/2.HEIC", "test/dog/scan"):
        (given / place).write_bytes(b"-")
    with pytest.warns() as told:
        assert len(folder_splits(given, PLAIN, None).train) == 5
    (one,) = told
    assert "3 file(s) are left out" in str(one.message)
    assert "2 .heic, 1 without a suffix" in str(one.message) and "1.heic'" in str(one.message)


def test_litter_is_no_class_and_no_image(given):
    for place in ("__MACOSX/cat/._1.png", "train/__MACOSX/x.png", "train/cat/Thumbs.db",
                  "test/dog/desktop.ini", "test/dog/.DS_Store"):  # fmt: skip
        (given / place).parent.mkdir(parents=True, exist_ok=True)
        (given / place).write_bytes(b"-")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert folder_splits(given, PLAIN, None).train.class_names == ("cat", "dog")


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
    with pytest.warns(UserWarning, match=r"^left out: 2 image.*'train/dog/0\.png'"):
        splits = folder_splits(given, ReadOptions(skip_corrupt=True), None)
    assert (len(splits.train), len(splits.test)) == (4, 2)


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


@pytest.mark.parametrize(("link", "to", "fraction"), [
    ("test", "train", None), ("test/b", "../train/b", None),
    ("test/a/9.png", "../../train/a/0.png", None), ("a/linked-{}.png", "0.png", 0.5),
])  # fmt: skip
def test_a_file_that_links_put_into_both_splits_is_refused(class_folder, link, to, fraction):
    sides = [""] if fraction else ["train", "test"]
    root = class_folder(
        "scans", {f"{side}/{name}".strip("/"): 4 for side in sides for name in "ab"}
    )
    for i in range(8):  # one of them falls on the other side than what it is a link to
        place = root / link.format(i)
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        if not place.exists():
            place.symlink_to(to)
    with pytest.raises(DpmixError, match=r"is the training image .*, by a symbolic link.*: remove"):
        folder_splits(root, PLAIN, fraction)


@pytest.mark.parametrize("name", ["test", "val", "Validation set"])
def test_what_is_judged_on_is_called_by_its_folders_name(class_folder, unchecked, name):
    root = class_folder(
        "scans", {f"{side}/{label}": 1 for side in ("train", name) for label in "ab"}
    )
    assert folder_splits(root, PLAIN, None).held_out == f"the {name} folder"
