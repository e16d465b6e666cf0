"""`--data` in every form; the paper's sets in miniature, laid out as torchvision lays them out."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from dpmix.data import load_splits
from dpmix.data.named import DIGITS, class_list
from dpmix.data.torchvision_sets import TORCHVISION_SETS
from dpmix.errors import DpmixError
from pictures import noise_picture

SUM_OF_TEST_PIXELS = 26101008


def test_the_digits_are_split_by_class_and_for_ever():
    splits = load_splits(DIGITS)
    assert splits.train.image_shape == (1, 28, 28)
    assert splits.train.class_names == class_list(DIGITS) == tuple("0123456789")
    assert torch.bincount(splits.train.labels).tolist() == [400] * 10
    assert torch.bincount(splits.test.labels).tolist() == [100] * 10
    assert not splits.flip
    # A changed split would make published numbers incomparable.
    assert int(splits.test.images(torch.arange(1000)).long().sum()) == SUM_OF_TEST_PIXELS
    assert load_splits(DIGITS, image_size=14, channels=3).train.image_shape == (3, 14, 14)
    few = load_splits(DIGITS, classes=3, validation_fraction=0.25, train_images=100)
    assert (few.train.class_names, len(few.train)) == (("0", "1", "2"), 100)
    assert abs(len(few.test) - 300) < 60


def test_a_built_in_name_goes_before_a_folder(class_folder, monkeypatch):
    monkeypatch.chdir(class_folder("mnist5k", {"a": 1}).parent)
    assert len(load_splits("mnist5k").train) == 4000
    with pytest.raises(DpmixError, match="an image or more"):
        load_splits("./mnist5k", test_fraction=0.5)


def test_a_class_that_a_terminal_would_obey_is_refused(class_folder):
    root = class_folder("flat", {"a": 20, "b\x1b[31m": 20})
    with pytest.raises(DpmixError, match=r"holds a character that can't be printed"):
        load_splits(str(root), test_fraction=0.5)


@pytest.mark.parametrize("data", [
    "GONE.NPZ", "/no/such/folder", "hf:./gone", "hf:/gone:few", "hf:~/gone",
])  # fmt: skip
def test_missing_paths_are_called_missing(data):
    said = {"hf:/gone:few": "/gone", "hf:~/gone": str(Path.home() / "gone")}
    place = said.get(data, data.removeprefix("hf:"))
    with pytest.raises(DpmixError, match=f"no (file or folder|folder or .npz file) '{place}'"):
        load_splits(data)


def test_class_names_are_read_without_an_image_or_a_label(class_folder, tmp_path, digits_npz):
    root = class_folder("root", {"dog": 1, "cat": 1})
    (root / "dog" / "0.png").write_bytes(b"no image at all")
    assert class_list(str(root)) == ("cat", "dog")
    for key in ("class_names", "classes", "names"):
        # Reading this array would be refused: it holds Python objects.
        np.savez(tmp_path / "a.npz", y_train=np.array([object()]), **{key: np.array(["ant", "b"])})
        assert class_list(str(tmp_path / "a.npz")) == ("ant", "b")
    for data in (str(digits_npz), "eurosat"):
        with pytest.raises(DpmixError, match="not known apart from its images and labels"):
            class_list(data)


def jpeg(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_picture("RGB", 12, 14, seed).save(path, quality=95)


LAYOUTS = {  # a set's files, its classes, and how many images of each
    "eurosat": ("eurosat/2750/{name}/{name}_{i}.jpg", ("AnnualCrop", "Forest"), 10),
    "caltech256": ("caltech256/256_ObjectCategories/{name}/{label:03}_{i:04}.jpg",
                   ("001.ak47", "056.dog", "257.clutter"), 20),
    "sun397": ("SUN397/{name}/sun_{label}{i:02}.jpg", ("a/abbey", "a/apse/indoor", "z/zoo"), 20),
    "pet": ("oxford-iiit-pet/images/{name}_{i}.jpg", ("Abyssinian", "american_bulldog"), 7),
}  # fmt: skip


def lay_out(root, data):
    place, names, count = LAYOUTS[data]
    for label, name in enumerate(names, 1):
        for i in range(1, count + 1):
            jpeg(root / place.format(name=name, label=label, i=i), 100 * label + i)
    if data == "caltech256":  # the published archive holds such things
        (root / "caltech256" / "256_ObjectCategories" / "001.ak47" / "RENAME2").touch()
    if data == "sun397":
        (root / "SUN397" / "ClassName.txt").write_text("".join(f"/{name}\n" for name in names))
    if data == "pet":
        (root / "oxford-iiit-pet" / "annotations").mkdir()
        for side, some in (("trainval", range(1, 5)), ("test", range(5, 8))):
            rows = [f"{name}_{i} {label} 1 1" for label, name in enumerate(names, 1) for i in some]
            (root / "oxford-iiit-pet" / "annotations" / f"{side}.txt").write_text("\n".join(rows))


def cifar(root, monkeypatch, kind, place, key, names, meta_key):
    """Batches of pixels, with torchvision's own hashes set to theirs."""
    (root / place).mkdir()
    rng = np.random.default_rng(0)

    def write(file, content):
        data = pickle.dumps(content)
        (root / place / file).write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def batch(count):
        labels = [i % len(names) for i in range(count)]
        return {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), key: labels}

    for attribute, count in (("train_list", 6), ("test_list", 4)):
        files = [
            [file, write(file, batch(count))]
            for file, _ in getattr(getattr(datasets, kind), attribute)
        ]
        monkeypatch.setattr(getattr(datasets, kind), attribute, files)
    meta = getattr(datasets, kind).meta
    digest = write(meta["filename"], {meta_key: list(names)})
    monkeypatch.setattr(getattr(datasets, kind), "meta", meta | {"md5": digest})


EXPECTED = {
    "eurosat": (("AnnualCrop", "Forest"), 16, 4),
    "caltech256": (("001.ak47", "056.dog", "257.clutter"), 48, 12),
    "sun397": (("abbey", "apse/indoor", "zoo"), 48, 12),
    "pet": (("Abyssinian", "american bulldog"), 8, 6),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_of_files_is_named_labelled_as_by_torchvision_and_split(tmp_path, name):
    lay_out(tmp_path, name)
    splits = load_splits(name, data_root=str(tmp_path))
    names, train, test = EXPECTED[name]
    assert splits.name == name
    assert splits.train.class_names == names
    assert (len(splits.train), len(splits.test)) == (train, test)
    if name in ("eurosat", "caltech256"):  # by class, and at random
        counts = torch.bincount(splits.test.labels).tolist()
        assert (counts == [test // len(names)] * len(names)) == (name == "eurosat")
    assert load_splits(name, data_root=str(tmp_path), image_size=8).test.image_shape == (3, 8, 8)
    kind = getattr(datasets, TORCHVISION_SETS[name].kind)
    parts = [kind(tmp_path, split=s) for s in ("trainval", "test")] if name == "pet" else [
        kind(str(tmp_path))
    ]  # fmt: skip
    theirs = {
        np.asarray(image).transpose(2, 0, 1).tobytes(): label
        for part in parts for image, label in (part[i] for i in range(len(part)))
    }  # fmt: skip
    ours = [
        (image.numpy().tobytes(), int(label))
        for source in (splits.train, splits.test)
        for image, label in zip(
            source.images(torch.arange(len(source))), source.labels, strict=True
        )
    ]
    assert len(ours) == len(theirs) and dict(ours) == theirs


def test_cifar_is_read_through_torchvision(tmp_path, monkeypatch):
    name, kind, place = "cifar100", "CIFAR100", "cifar-100-python"
    cifar(tmp_path, monkeypatch, kind, place, "fine_labels", ("cat", "dog"), "fine_label_names")
    splits = load_splits(name, data_root=str(tmp_path))
    theirs = getattr(datasets, kind)(tmp_path, train=True)
    assert splits.train.class_names == ("cat", "dog")
    assert np.array_equal(splits.train.pixels.numpy(), theirs.data.transpose(0, 3, 1, 2))
    assert splits.train.labels.tolist() == theirs.targets
    assert len(splits.test) == 4
    assert load_splits(name, data_root=str(tmp_path), image_size=20).test.image_shape == (3, 20, 20)
    with pytest.raises(DpmixError, match="--skip-corrupt does not apply"):
        load_splits(name, data_root=str(tmp_path), skip_corrupt=True)
    # A changed file is never unpickled.
    file = tmp_path / place / getattr(datasets, kind).train_list[0][0]
    file.write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(DpmixError, match="is not whole"):
        load_splits(name, data_root=str(tmp_path))


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DpmixError, match=r"'cifar10' can't be fetched .no route to host"):
        load_splits("cifar10", data_root=str(tmp_path), download=True)
