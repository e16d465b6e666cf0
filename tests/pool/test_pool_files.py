"""Pools as folders and as `.npz` files."""

from io import BytesIO

import numpy as np
import pytest

from dpmix.errors import DpmixError
from dpmix.pool.load import JOURNAL, open_pool
from pictures import noise_picture


def test_a_folder_without_a_manifest_is_a_pool(class_folder):
    root = class_folder("pool", {"bee": 1, "ant": 2})
    files = open_pool(root)
    assert files.class_names == ("ant", "bee")
    assert files.part.labels.tolist() == [0, 0, 1]
    assert files.images.names == ("ant/0.png", "ant/1.png", "bee/0.png")
    assert files.manifest is None


def png(seed):
    stream = BytesIO()
    noise_picture("RGB", 8, 8, seed).save(stream, "PNG")
    return stream.getvalue()


def test_an_npz_of_encoded_bytes_is_a_pool(tmp_path):
    blobs = [png(1), png(2), png(3)]
    path = tmp_path / "pool.npz"
    np.savez(
        path,
        train_jpeg=np.frombuffer(b"".join(blobs), np.uint8),
        train_end=np.cumsum([len(blob) for blob in blobs]),
        train_label=[1, 0, 1],
        names=np.array(["ant", "bee"]),
    )
    files = open_pool(path)
    assert files.class_names == ("ant", "bee")
    assert files.part.labels.tolist() == [1, 0, 1]
    assert files.images.open(2).read() == blobs[2]


def test_an_npz_that_names_a_class_twice_is_refused(tmp_path):
    path = tmp_path / "pool.npz"
    blob = np.frombuffer(png(1), np.uint8)
    names = np.array(["ant", "ant"])
    np.savez(path, train_jpeg=blob, train_end=[len(blob)], train_label=[0], names=names)
    with pytest.raises(DpmixError, match="class name 'ant' is given twice"):
        open_pool(path)


def test_an_npz_of_plain_arrays_is_refused(digits_npz):
    with pytest.raises(DpmixError, match=r"tiny.npz has no 'train_jpeg'; .*folder"):
        open_pool(digits_npz)


@pytest.mark.parametrize("name", ["gone", "gone.npz", "note.txt"])
def test_what_is_no_pool_is_refused(tmp_path, name):
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(DpmixError, match=f"no public pool .*{name}.*dpmix synthesize"):
        open_pool(tmp_path / name)


def test_an_unfinished_pool_is_refused(class_folder):
    root = class_folder("pool", {"ant": 1})
    (root / JOURNAL).write_text("{}\n")
    with pytest.raises(DpmixError, match="is not finished; run the same dpmix synthesize again"):
        open_pool(root)


def test_a_folder_without_classes_and_a_class_without_images_are_refused(tmp_path):
    with pytest.raises(DpmixError, match="holds no class folders"):
        open_pool(tmp_path)
    (tmp_path / "ant").mkdir()
    with pytest.raises(DpmixError, match="holds no images"):
        open_pool(tmp_path)
