"""Files to a pool in the private data's form, and refusals of a pool that is private."""

import tempfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data import decode, load_splits
from dpmix.data.image import ReadOptions
from dpmix.errors import DpmixError
from dpmix.pool.class_map import UNLABELLED
from dpmix.pool.load import load_pool_for, open_pool
from pictures import noise_picture

NAMES = ("cow", "dog", "ant", "bee")
PLAIN = ReadOptions()


@pytest.fixture
def load(private):
    """load(root, names, shape): the pool in `root`, for private images of that form."""

    def call(root, names=NAMES, shape=(3, 8, 8), options=PLAIN, **chosen):
        return load_pool_for("no-such-data", private(names, shape), root, options=options, **chosen)

    return call


def pixels(path):
    return np.asarray(Image.open(path)).transpose(2, 0, 1)


def npz_pool(path, names):
    blobs = []
    for seed in range(3):
        stream = BytesIO()
        noise_picture("RGB", 8, 8, seed).save(stream, "PNG")
        blobs.append(stream.getvalue())
    ends = np.cumsum([len(blob) for blob in blobs])
    np.savez(path, train_jpeg=np.frombuffer(b"".join(blobs), np.uint8), train_end=ends,
             train_label=[1, 0, 1], names=np.array(names))  # fmt: skip
    return blobs


def test_an_npz_of_encoded_bytes_is_a_pool(tmp_path):
    blobs = npz_pool(tmp_path / "pool.npz", ["ant", "bee"])
    files = open_pool(tmp_path / "pool.npz")
    assert files.class_names == ("ant", "bee")
    assert files.images.labels.tolist() == [1, 0, 1]
    assert files.images.open(2).read() == blobs[2]
    npz_pool(tmp_path / "pool.npz", ["ant", "ant"])
    with pytest.raises(DpmixError, match="class name 'ant' is given twice"):
        open_pool(tmp_path / "pool.npz")


def test_what_is_no_pool_is_refused(tmp_path, digits_npz):
    (tmp_path / "note.txt").write_text("x")
    (tmp_path / "without-images" / "ant").mkdir(parents=True)
    for name in ("gone", "gone.npz", "note.txt"):
        with pytest.raises(DpmixError, match=f"no public pool .*{name}.*dpmix synthesize"):
            open_pool(tmp_path / name)
    with pytest.raises(DpmixError, match=r"tiny.npz has no 'train_jpeg'; .*folder"):
        open_pool(digits_npz)
    with pytest.raises(DpmixError, match="holds no images"):
        open_pool(tmp_path / "without-images")


def test_classes_are_matched_by_name_and_each_label_stays_with_its_image(class_folder, load):
    root = class_folder("pool", {"ant": 2, "bee": 1, "cow": 3})
    pool = load(root).pool
    files = sorted(root.rglob("*.png"))
    assert len(pool) == len(files) == 6
    for image, label, path in zip(pool.images, pool.labels.tolist(), files, strict=True):
        assert path.parent.name == NAMES[label]
        assert np.array_equal(image.numpy(), pixels(path))


def test_pool_images_get_the_size_and_channels_of_square_private_ones(class_folder, load):
    root = class_folder("pool", {"ant": 2}, height=10, width=14)
    assert load(root, shape=(1, 6, 6)).pool.images.shape == (2, 1, 6, 6)


def test_images_of_another_shape_than_oblong_private_ones_are_refused(class_folder, load):
    with pytest.raises(DpmixError, match=r"images \(3, 8, 8\) .*private ones are \(3, 9, 8\)"):
        load(class_folder("pool", {"ant": 1}), shape=(3, 9, 8))


def test_classes_that_are_left_out_are_not_even_decoded(class_folder, load, truncate):
    root = class_folder("pool", {"ant": 2, "fox": 2})
    with pytest.raises(DpmixError, match="class 'fox' is not a class of the private data"):
        load(root)
    assert load(root, unmapped="unlabelled").pool.labels.tolist() == [2, 2, UNLABELLED, UNLABELLED]
    truncate(root / "fox" / "0.png")
    loaded = load(root, unmapped="leave-out")
    assert loaded.pool.labels.tolist() == [2, 2]
    assert loaded.facts.left_out == 2


def test_the_facts_hash_what_is_used_and_never_hold_the_path(class_folder, load):
    root = class_folder("alice/pool", {"ant": 2, "bee": 1})
    facts = load(root).facts
    assert (facts.name, facts.images, facts.manifest_sha256) == ("pool", 3, None)
    assert "alice" not in str(facts.as_dict())
    relabelled = load(root, NAMES[::-1]).facts
    (root / "bee" / "0.png").unlink()
    (root / "bee").rmdir()
    fewer = load(root).facts
    assert fewer.classes_without == ("cow", "dog", "bee")
    assert len({f.contents_sha256 for f in (facts, relabelled, fewer)}) == 3


def test_a_pool_too_large_for_memory_is_mapped_from_a_file_without_a_name(
    class_folder, load, tmp_path, monkeypatch
):
    root = class_folder("pool", {"ant": 5, "bee": 4})
    small = load(root).pool.images
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", 100)
    mapped = load(root).pool.images
    assert torch.equal(mapped, small)
    index = torch.tensor([8, 0, 3])
    assert torch.equal(mapped[index], small[index])
    assert not list((tmp_path / "temporary").iterdir())


@pytest.mark.usefixtures("no_space")
def test_a_full_disk_is_an_error_and_not_a_crash(class_folder, load, monkeypatch):
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", 100)
    with pytest.raises(DpmixError, match=r"do not fit in .* \(File too large\).*TMPDIR"):
        load(class_folder("pool", {"ant": 30}))


@pytest.fixture
def check(private, class_folder):
    """check(change): does a pool, changed by `change(root, splits)`, overlap the private data?"""

    def run(change):
        splits = private()
        root = class_folder("pool", {"ant": 4, "bee": 4}, seed=500)
        change(root, splits)
        load_pool_for("no-such-data", splits, root, options=PLAIN)

    return run


def saved(source, index, path, form="PNG"):
    shown = source.images(torch.tensor([index]))[0].permute(1, 2, 0).numpy()
    Image.fromarray(shown).save(path, form)


@pytest.mark.parametrize(("form", "name"), [("PNG", "x.png"), ("BMP", "x.bmp")])
def test_a_private_image_is_found_in_any_lossless_format_and_under_any_label(check, form, name):
    with pytest.raises(DpmixError, match=rf"1 of its images are private training .*ant/{name}"):
        check(lambda root, splits: saved(splits.train, 1, root / "ant" / name, form))
    with pytest.raises(DpmixError, match="private test images"):
        check(lambda root, splits: (
            (root / "ant" / name).unlink(), saved(splits.test, 0, root / "bee" / "0.png")
        ))  # fmt: skip


@pytest.mark.parametrize(("height", "width", "channels"), [(64, 64, None), (61, 80, 1)])
def test_private_arrays_that_were_resized_are_found_all(tmp_path, height, width, channels):
    rng = np.random.default_rng(7)
    arrays = rng.integers(0, 256, (12, height, width, 3), dtype=np.uint8)
    labels = np.arange(12) % 2
    np.savez(tmp_path / "a.npz", x_train=arrays[:8], y_train=labels[:8], x_test=arrays[8:],
             y_test=labels[8:])  # fmt: skip
    splits = load_splits(str(tmp_path / "a.npz"), image_size=16, channels=channels)
    (tmp_path / "pool" / "0").mkdir(parents=True)
    for i in range(8):
        Image.fromarray(arrays[i]).save(tmp_path / "pool" / "0" / f"{i}.png")
    with pytest.raises(DpmixError, match="8 of its images are private training images"):
        load_pool_for(str(tmp_path / "a.npz"), splits, tmp_path / "pool", options=PLAIN)


def test_a_pool_in_or_around_the_private_data_is_refused(class_folder, private):
    root = class_folder("data", {"ant": 1, "bee": 1})
    for inner, outer in ((root / "ant", root), (root, root / "ant"), (root, root)):
        with pytest.raises(DpmixError, match="overlaps the private data"):
            load_pool_for(str(outer), private(), inner, options=PLAIN)
