"""The paper's sets in miniature, laid out as torchvision lays them out."""

import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision import datasets

from dpmix.data import load_splits
from dpmix.data.torchvision_sets import TORCHVISION_SETS
from dpmix.errors import DpmixError
from pictures import noise_picture


def jpeg(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_picture("RGB", 12, 14, seed).save(path, quality=95)


def eurosat(root):
    for label, name in enumerate(("AnnualCrop", "Forest")):
        for i in range(10):
            jpeg(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", 100 * label + i)


def caltech256(root):
    folder = root / "caltech256" / "256_ObjectCategories"
    for label, name in enumerate(("001.ak47", "056.dog", "257.clutter")):
        for i in range(20):
            jpeg(folder / name / f"{label + 1:03}_{i + 1:04}.jpg", 100 * label + i)
    # The published archive holds such things.
    (folder / "056.dog" / "greg").mkdir()
    (folder / "056.dog" / "greg" / "vision309").touch()
    (folder / "001.ak47" / "RENAME2").touch()


def sun397(root):
    names = ("a/abbey", "a/apse/indoor", "z/zen_garden")
    for label, name in enumerate(names):
        for i in range(20):
            jpeg(root / "SUN397" / name / f"sun_{label}{i:02}.jpg", 100 * label + i)
    (root / "SUN397" / "ClassName.txt").write_text("".join(f"/{name}\n" for name in names))


def pet(root):
    folder = root / "oxford-iiit-pet"
    breeds = ("Abyssinian", "american_bulldog", "Bengal")
    for side, count in (("trainval", 4), ("test", 3)):
        lines = []
        for label, breed in enumerate(breeds):
            for i in range(count):
                name = f"{breed}_{i + (100 if side == 'test' else 0)}"
                jpeg(
                    folder / "images" / f"{name}.jpg",
                    100 * label + i + (50 if side == "test" else 0),
                )
                lines.append(f"{name} {label + 1} {1 + label % 2} 1\n")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"{side}.txt").write_text("".join(lines))
    (folder / "images" / "Abyssinian_100.mat").touch()


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


FOLDERS = {"eurosat": eurosat, "caltech256": caltech256, "sun397": sun397, "pet": pet}
EXPECTED = {
    "eurosat": (("AnnualCrop", "Forest"), 16, 4),
    "caltech256": (("001.ak47", "056.dog", "257.clutter"), 48, 12),
    "sun397": (("abbey", "apse/indoor", "zen_garden"), 48, 12),
    "pet": (("Abyssinian", "american bulldog", "Bengal"), 12, 9),
}


def contents(source):
    return {image.numpy().tobytes() for image in source.images(torch.arange(len(source)))}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_set_of_files_is_read_named_and_split(tmp_path, name):
    FOLDERS[name](tmp_path)
    splits = load_splits(name, data_root=str(tmp_path))
    names, train, test = EXPECTED[name]
    assert splits.name == name
    assert splits.train.class_names == names
    assert (len(splits.train), len(splits.test)) == (train, test)
    assert splits.train.image_shape == (3, 12, 14)
    assert not contents(splits.train) & contents(splits.test)
    again = load_splits(name, data_root=str(tmp_path), image_size=8)
    assert torch.equal(again.train.labels, splits.train.labels)
    assert again.train.image_shape == (3, 8, 8)


@pytest.mark.parametrize("name", FOLDERS)
def test_labels_agree_with_torchvisions_own_reading(tmp_path, name):
    FOLDERS[name](tmp_path)
    splits = load_splits(name, data_root=str(tmp_path))
    kind = getattr(datasets, TORCHVISION_SETS[name].kind)
    parts = [kind(tmp_path, split=s) for s in ("trainval", "test")] if name == "pet" else [
        kind(str(tmp_path))
    ]  # fmt: skip
    theirs = {}
    for part in parts:
        for i in range(len(part)):
            image, label = part[i]
            theirs[np.asarray(image).transpose(2, 0, 1).tobytes()] = label
    ours = {}
    for source in (splits.train, splits.test):
        for image, label in zip(
            source.images(torch.arange(len(source))), source.labels, strict=True
        ):
            ours[image.numpy().tobytes()] = int(label)
    assert ours == theirs


def test_eurosat_is_split_by_class_and_the_others_at_random(tmp_path):
    eurosat(tmp_path)
    assert load_splits("eurosat", data_root=str(tmp_path)).test.labels.tolist() == [0, 0, 1, 1]
    caltech256(tmp_path)
    counts = torch.bincount(load_splits("caltech256", data_root=str(tmp_path)).test.labels)
    assert counts.sum() == 12 and counts.tolist() != [4, 4, 4]


CIFARS = [
    ("cifar10", "CIFAR10", "cifar-10-batches-py", "labels", "label_names"),
    ("cifar100", "CIFAR100", "cifar-100-python", "fine_labels", "fine_label_names"),
]


@pytest.mark.parametrize(("name", "kind", "place", "key", "meta_key"), CIFARS)
def test_cifar_is_read_through_torchvision(tmp_path, monkeypatch, name, kind, place, key, meta_key):
    cifar(tmp_path, monkeypatch, kind, place, key, ("cat", "dog"), meta_key)
    splits = load_splits(name, data_root=str(tmp_path))
    theirs = getattr(datasets, kind)(tmp_path, train=True)
    assert splits.train.class_names == ("cat", "dog")
    assert np.array_equal(splits.train.pixels.numpy(), theirs.data.transpose(0, 3, 1, 2))
    assert splits.train.labels.tolist() == theirs.targets
    assert len(splits.test) == 4
    assert load_splits(name, data_root=str(tmp_path), image_size=20).test.image_shape == (3, 20, 20)
    with pytest.raises(DpmixError, match="--skip-corrupt does not apply"):
        load_splits(name, data_root=str(tmp_path), skip_corrupt=True)


@pytest.mark.parametrize(("name", "kind", "place", "key", "meta_key"), CIFARS)
def test_a_changed_cifar_is_never_unpickled(
    tmp_path, monkeypatch, name, kind, place, key, meta_key
):
    cifar(tmp_path, monkeypatch, kind, place, key, ("cat", "dog"), meta_key)
    file = tmp_path / place / getattr(datasets, kind).train_list[0][0]
    file.write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(DpmixError, match="is not whole"):
        load_splits(name, data_root=str(tmp_path))


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_a_set_that_is_not_there_is_refused_and_nothing_is_made(tmp_path, name):
    with pytest.raises(DpmixError, match=f"no data set '{name}' .*--data-root .*--download"):
        load_splits(name, data_root=str(tmp_path / "data"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", TORCHVISION_SETS)
def test_a_download_that_fails_is_one_line(tmp_path, name, monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DpmixError, match=f"'{name}' can't be fetched .no route to host"):
        load_splits(name, data_root=str(tmp_path), download=True)


def test_a_broken_layout_is_named(tmp_path):
    sun397(tmp_path)
    (tmp_path / "SUN397" / "ClassName.txt").write_text("/a/abbey\n")
    with pytest.raises(DpmixError, match=r"holds class 'apse/indoor', which ClassName.txt"):
        load_splits("sun397", data_root=str(tmp_path))
    (tmp_path / "SUN397" / "ClassName.txt").unlink()
    with pytest.raises(DpmixError, match=r"cannot read .*ClassName.txt"):
        load_splits("sun397", data_root=str(tmp_path))
