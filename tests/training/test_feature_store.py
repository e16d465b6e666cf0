"""Rows on disk: found under their own key only, complete, resumed, and hidden from other users."""

import os
import threading
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.training import feature_store as module
from dpmix.training.feature_store import FeatureStore, Layout, store_folder

LAYOUT = Layout(rows=6, views=2, features=3, dtype="float32", classes=2)
KEY = {"data": "ab", "seed": 0}


def rows(count=6):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 2, 3, generator=generator), torch.rand(
        count, 2, 2, generator=generator
    )


def fill(store, stop=None):
    features, labels = rows()
    with store.writing() as append:
        for i in range(store.done(), 6):
            if i == stop:
                raise KeyboardInterrupt
            append(features[i : i + 1], labels[i : i + 1])


@pytest.mark.parametrize("stop", [0, 4])
def test_it_is_resumed_wherever_it_was_stopped(tmp_path, stop):
    store = FeatureStore(tmp_path, KEY, LAYOUT)
    with pytest.raises(KeyboardInterrupt):
        fill(store, stop)
    assert store.done() == stop
    # Half a row does not count.
    with (store.folder / "rows.bin").open("ab") as file:
        file.write(b"half a row")
    fill(store)
    assert store.done() == 6
    assert torch.equal(store.features(), rows()[0])
    assert torch.equal(store.labels(), rows()[1])
    assert LAYOUT.bytes == 4 * 6 * (6 + 4) == (store.folder / "rows.bin").stat().st_size


@pytest.mark.parametrize(
    "other",
    [({"data": "ac", "seed": 0}, LAYOUT), ({"data": "ab", "seed": 1}, LAYOUT),
     (KEY, Layout(6, 2, 3, "float16", 2)), (KEY, Layout(5, 2, 3, "float32", 2))],
)  # fmt: skip
def test_another_key_or_layout_is_another_store(tmp_path, other):
    fill(FeatureStore(tmp_path, KEY, LAYOUT))
    assert FeatureStore(tmp_path, *other).done() == 0


def test_a_damaged_store_is_never_used(tmp_path):
    store = FeatureStore(tmp_path, KEY, LAYOUT)
    fill(store)
    with (store.folder / "rows.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(DpmixError, match=r"is damaged.* delete that folder"):
        store.done()


def test_a_second_run_waits_and_finds_what_the_first_wrote(tmp_path):
    found = []

    def second():
        with (
            pytest.warns(UserWarning, match="another run is embedding"),
            FeatureStore(tmp_path, KEY, LAYOUT).writing(),
        ):
            found.append(store.done())

    store = FeatureStore(tmp_path, KEY, LAYOUT)
    waiting = threading.Thread(target=second)
    with store.writing() as append:
        waiting.start()
        append(*(part[:2] for part in rows()))
        waiting.join(0.2)
        assert waiting.is_alive() and not found
    waiting.join(10)
    assert found == [2]


def test_too_little_space_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage)
    store = FeatureStore(tmp_path, KEY, Layout(10**6, 2, 3, "float32"))
    expected = r"needs more than the 0\.0 GB that are free in .*--cache-dir"
    with pytest.raises(DpmixError, match=expected), store.writing():
        pass
    assert not (store.folder / "rows.bin").exists()


def test_a_disk_that_fills_up_keeps_what_is_there(tmp_path, no_space):
    store = FeatureStore(tmp_path, KEY, Layout(400, 2, 3, "float32"))
    with pytest.raises(DpmixError, match="cannot write feature cache"), store.writing() as append:
        for _ in range(400):
            append(torch.ones(1, 2, 3), None)
    done = store.done()
    assert 0 < done < 400
    mapped = torch.from_file(str(store.folder / "rows.bin"), size=done * 6, dtype=torch.float32)
    assert (mapped == 1).all()


def test_numbers_beyond_half_precision_become_its_largest(tmp_path):
    store = FeatureStore(tmp_path, KEY, Layout(1, 1, 3, "float16"))
    with store.writing() as append:
        append(torch.tensor([[[1e9, -1e9, float("nan")]]]), None)
    got = store.features()[0, 0]
    assert got[:2].tolist() == [65504.0, -65504.0]
    assert got[2].isnan()


NAME = '{"data": "what the images hash to"}'
PLAIN = sha256(NAME.encode()).hexdigest()


@pytest.fixture
def umask():
    """New folders are open to all unless their maker closes them."""
    before = os.umask(0)
    yield
    os.umask(before)


def visible(folder):
    """Every path in `folder` that another user can see."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and path.stat().st_mode & 0o077:
            yield from visible(path)


def made(root, key=KEY):
    store = FeatureStore(root, key, LAYOUT)
    fill(store)
    assert "PRIVATE" in (store.folder / "PRIVATE.txt").read_text()
    return store.folder


@pytest.mark.parametrize("mode", [None, 0o700, 0o1777])
def test_others_see_one_folder_and_nothing_in_it_for_every_root(tmp_path, umask, mode):
    root = tmp_path / "features"
    if mode is not None:
        root.mkdir(mode=mode)
    home = made(root).parent
    made(root, {"data": "another"})
    assert [*visible(root)] == [home] and home.stat().st_mode & 0o077 == 0
    assert home.name == f"of-user-{os.geteuid()}"


def test_names_are_no_function_of_the_images_alone(tmp_path):
    first, again = (store_folder(tmp_path / "a", NAME) for _ in range(2))
    elsewhere, other = store_folder(tmp_path / "b", NAME), store_folder(tmp_path / "a", "another")
    assert first == again != other
    assert first.name != elsewhere.name
    for name in (first.name, elsewhere.name):
        assert name not in PLAIN and len(name) == 20


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    # Somebody else may make the folder that a user would use.
    me = os.geteuid()
    monkeypatch.setattr(module.os, "geteuid", lambda: me + 1)
    expected = r"'.*of-user-.*': it is not a folder of this user; give another"
    with pytest.raises(DpmixError, match=expected):
        store_folder(tmp_path, NAME)


@pytest.mark.parametrize("there", [
    lambda path: path.symlink_to("/"), lambda path: path.write_text(""),
])  # fmt: skip
def test_what_is_no_folder_is_refused_and_links_are_not_followed(tmp_path, there):
    there(tmp_path / f"of-user-{os.geteuid()}")
    with pytest.raises(DpmixError, match=r"cannot keep private features in .*--cache-dir"):
        store_folder(tmp_path, NAME)


def test_a_disk_that_keeps_no_permissions_is_refused(tmp_path, monkeypatch):
    store_folder(tmp_path, NAME).parent.chmod(0o755)
    monkeypatch.setattr(Path, "chmod", lambda *_: None)
    with pytest.raises(DpmixError, match="this disk can't close a folder to other users"):
        store_folder(tmp_path, NAME)


@pytest.mark.parametrize(("mode", "warned"), [(0o777, True), (0o1777, False), (0o755, False)])
def test_a_root_in_which_others_may_replace_folders_is_warned_of(tmp_path, mode, warned):
    tmp_path.chmod(mode)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        home = store_folder(tmp_path, NAME).parent
    remedy = "give a --cache-dir that belongs to you"
    assert any(remedy in str(one.message) for one in heard) == warned
    home.chmod(0o755)
    store_folder(tmp_path, NAME)
    assert home.stat().st_mode & 0o777 == 0o700, "a folder that was opened is closed again"
