import shutil
import warnings
from unicodedata import normalize

import numpy as np
import pytest
import torch
from hypothesis import assume, settings
from hypothesis import given as given_any
from hypothesis import strategies as st
from PIL import Image

from dpmix.data.decode import decode_sources
from dpmix.data.folder import (
    class_folder_names,
    class_folders,
    folder_splits,
    list_images,
)
from dpmix.data.image import ReadOptions
from dpmix.data.splits import side_of
from dpmix.errors import DpmixError
from pictures import noise_picture, write_class_folders

PLAIN = ReadOptions()
few = settings(max_examples=15, deadline=None)


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
    assert (splits.name, splits.flip, splits.held_out) == ("root", True, "the test folder")
    expected = np.array(Image.open(given / "test" / "dog" / "1.png")).transpose(2, 0, 1)
    assert np.array_equal(splits.test.images(torch.tensor([2]))[0].numpy(), expected)


def test_neighbouring_folders_have_neighbouring_train_sets(class_folder):
    root = class_folder("flat", {"a": 12, "b": 12})
    before = folder_splits(root, PLAIN, 0.4)
    train, test = contents(before.train), contents(before.test)
    names, images = class_folders(root)
    (whole,), _ = decode_sources([images], names, PLAIN)
    assert not train & test
    assert train | test == contents(whole) and len(train) + len(test) == 24
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


SPELLINGS = st.sampled_from(["train", "training", "test", "testing", "val", "valid", "validation"])


@st.composite
def spelt(draw, side=None):
    """A name of `side`, or of any split, in letters of any case."""
    plain = draw(
        SPELLINGS if side is None else SPELLINGS.filter(lambda name: side_of(name) == side)
    )
    name = plain + draw(st.sampled_from(["", "set", "_set", "-set", " set"]))
    return "".join(draw(st.sampled_from([c.upper(), c.lower()])) for c in name)


@few
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
    assert splits.held_out == f"the {test} folder"


@few
@given_any(spelt(), spelt())
def test_splits_are_never_classes(tmp_path_factory, one, other):
    assume(one != other)
    root = tmp_path_factory.mktemp("data")
    for name in (one, other):
        (root / name).mkdir()
        noise_picture("RGB", 8, 8, len(name)).save(root / name / "1.png")
    for read in (lambda: folder_splits(root, PLAIN, None), lambda: folder_splits(root, PLAIN, 0.5),
                 lambda: class_folder_names(root)):  # fmt: skip
        with pytest.raises(DpmixError, match=r"splits without class folders|both name the"):
            read()


@pytest.mark.parametrize("name", ["train", "Test", "valid"])
def test_a_class_that_is_named_as_a_split_needs_the_fraction(class_folder, name):
    root = class_folder("vehicles", {"bus": 9, "car": 9, name: 9})
    with pytest.raises(DpmixError, match=r"holds .*--test-fraction 0\.2"):
        folder_splits(root, PLAIN, None)
    splits = folder_splits(root, PLAIN, 0.4)
    assert splits.train.class_names == class_folder_names(root)
    assert set(splits.train.class_names) == {"bus", "car", name}


def _flat_test_images(root, folder):
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    (root / "test" / "1.png").write_bytes(b"-")


@pytest.mark.parametrize(("change", "fraction", "said"), [
    (lambda root, folder: None, 0.2, r"--test-fraction 0\.2 does not apply"),
    (lambda root, folder: folder("root/test", {"emu": 1}), None, "class emu is in one of 'train'"),
    (_flat_test_images, None, r"expected a train and a test .*--test-fraction 0\.2"),
    (lambda root, folder: folder("root/Train", {"dog": 1, "cat": 1}), None,
     "'Train' and 'train', which both name the train split"),
    (lambda root, folder: shutil.rmtree(root / "test"), None, "holds train; expected a train"),
])  # fmt: skip
def test_a_layout_that_cannot_be_is_refused(given, class_folder, change, fraction, said):
    change(given, class_folder)
    with pytest.raises(DpmixError, match=said):
        folder_splits(given, PLAIN, fraction)


def test_validation_images_are_judged_on_only_without_test_images(given, class_folder, unchecked):
    alone = folder_splits(given, PLAIN, None)
    class_folder("root/val", {"dog": 1, "cat": 1}, seed=50)
    class_folder("root/unlabelled", {"all": 1})
    with pytest.warns(UserWarning) as seen:
        both = folder_splits(given, PLAIN, None)
    said = " ".join(str(one.message) for one in seen)
    assert "'val' is not used: neither trained on nor judged on" in said
    assert "no split, so left out: unlabelled" in said
    assert contents(both.train) == contents(alone.train)
    assert contents(both.test) == contents(alone.test)
    shutil.rmtree(given / "val")
    (given / "test").rename(given / "Validation")
    with pytest.warns(UserWarning, match="no test split: the model is judged on 'Validation'"):
        assert contents(folder_splits(given, PLAIN, None).test) == contents(alone.test)


def test_names_in_two_unicode_forms_are_one_class(class_folder):
    for side, form in (("train", "NFC"), ("test", "NFD")):
        names = {normalize(form, name): 1 for name in ("café", "thé", "tee")}
        class_folder(f"root/{side}", names, seed=len(side))
    splits = folder_splits(class_folder("root", {}), PLAIN, None)
    assert splits.train.class_names == splits.test.class_names == ("café", "tee", "thé")
    root = class_folder("flat", {normalize("NFC", "é"): 1, normalize("NFD", "é"): 1, "a": 1})
    with pytest.raises(DpmixError, match="differ only in their Unicode form"):
        class_folders(root)


def test_files_that_are_no_images_are_counted_once_for_both_splits(given, unchecked):
    for place in ("train/cat/1.heic", "train/dog/2.HEIC", "test/dog/scan"):
        (given / place).write_bytes(b"-")
    with pytest.warns() as seen:
        assert len(folder_splits(given, PLAIN, None).train) == 5
    (one,) = seen
    assert "3 file(s) are left out (.heic: 2, no suffix: 1), such as '" in str(one.message)


def test_dicom_files_named_by_numbers_are_counted_with_a_remedy(given, unchecked):
    """The suffix decides; scanners write names such as IM0001 and 1.2.840.113619.2.55."""
    start = bytes(128) + b"DICM"
    for place in ("train/cat/IM0001", "train/cat/1.2.840.113", "train/dog/1.2.840.114"):
        (given / place).write_bytes(start)
    (given / "test/dog/DICOMDIR").write_bytes(start)  # an index, as litter
    (given / "test/dog/note.txt").write_bytes(b"-")
    with pytest.warns() as seen:
        folder_splits(given, PLAIN, None)
    (one,) = seen
    assert "4 file(s) are left out (.txt: 1, DICOM files whose names do not end in .dcm: 3)" in (
        text := str(one.message)
    )
    assert "rename DICOM files to NAME.dcm, and convert others to one of" in text
    for file in (given / "train/cat").glob("*.png"):
        file.unlink()
    with pytest.raises(
        DpmixError, match=r"holds no images but 2 DICOM .*; rename them to NAME.dcm"
    ):
        folder_splits(given, PLAIN, None)


@pytest.mark.parametrize(("link", "to", "fraction"), [
    ("test/b/9.png", "../../train/b/0.png", None), ("b/linked-{}.png", "0.png", 0.5),
])  # fmt: skip
def test_a_file_that_links_put_into_both_splits_is_refused(class_folder, link, to, fraction):
    sides = [""] if fraction else ["train/", "test/"]
    root = class_folder("scans", {f"{side}{name}": 4 for side in sides for name in "ab"})
    for i in range(8 if fraction else 1):  # one falls on the other side than what it is a link to
        (root / link.format(i)).symlink_to(to)
    with pytest.raises(DpmixError, match=r"a training and a test image, by a link.*: remove"):
        folder_splits(root, PLAIN, fraction)


@pytest.fixture
def root(tmp_path):
    for name in ("b/2.PNG", "b/10.jpeg", "a/x.tif", "a/note.txt", "a/.hidden.png", ".git/x.png"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"-")
    (tmp_path / "root" / "labels.csv").write_text("next to the classes")
    return tmp_path / "root"


def listed(root):
    return list(class_folders(root)[1].names)


def below(root):
    return [path.relative_to(root).as_posix() for path in list_images(root)[0]]


def test_images_are_listed_in_the_order_of_their_names(root, unchecked):
    assert listed(root) == below(root) == ["a/x.tif", "b/10.jpeg", "b/2.PNG"]
    assert [path.name for path in list_images(root)[1]] == ["note.txt", "labels.csv"]
    (root / "z.png").write_bytes(b"-")
    with pytest.warns(UserWarning, match=r"1 image\(s\) .* are left out, such as '.*z.png'"):
        assert "z.png" not in listed(root)


def test_links_inside_the_root_are_followed(root):
    (root / "a" / "y.png").symlink_to(root / "b" / "2.PNG")
    assert listed(root)[1] == "a/y.png"
    (root / "a" / "linked").symlink_to("../b")
    assert "a/linked/2.PNG" in below(root)


def _link(place, to):
    return lambda root: (root / place).symlink_to(root / to)


@pytest.mark.parametrize(("change", "said"), [
    (_link("a/link.png", "../secret/1.png"), "is a symbolic link that is broken or leads out"),
    (_link("a/link.png", "../root-other"), "leads out of the data folder"),  # begins alike
    (_link("a/link.png", "a/nowhere"), r"link.png' is a symbolic link that is broken"),
    (lambda root: (root / "a" / "deeper").mkdir(), "holds a folder, 'deeper'"),
    (lambda root: (root / "a" / "x.tif").unlink(), "a' holds no images; expected"),
])  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(root, tmp_path, change, said):
    for outside in ("secret", "root-other"):
        (tmp_path / outside).mkdir()
        (tmp_path / outside / "1.png").write_bytes(b"-")
    change(root)
    with pytest.raises(DpmixError, match=said):
        listed(root)


def test_links_that_lead_round_in_a_circle_are_refused(root):
    (root / "a" / "round").symlink_to("../b")
    (root / "b" / "back").symlink_to("../a")
    with pytest.raises(DpmixError, match="is a symbolic link to a folder that holds it"):
        list_images(root)
