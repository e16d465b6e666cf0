"""Other users of the machine learn nothing from where feature caches lie, or from their names."""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from filelock import FileLock

from dpmix.errors import DpmixError
from dpmix.training import cache_home
from dpmix.training.cache_home import store_folder

KEY = '{"data": "what the images hash to"}'
PLAIN = sha256(KEY.encode()).hexdigest()
EARLIER = PLAIN[:20]
"""What an earlier version called the cache of `KEY`."""


@pytest.fixture
def umask():
    """Nothing is closed but by whoever makes it."""
    before = os.umask(0)
    yield
    os.umask(before)


def visible(folder):
    """What lies in `folder` as far as another user may look, and every name on the way."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and path.stat().st_mode & 0o077:
            yield from visible(path)


def made(root, key=KEY):
    folder = store_folder(root, key)
    folder.mkdir()
    (folder / "key.json").write_text(key)
    return folder


@pytest.mark.parametrize("mode", [None, 0o700, 0o755, 0o775, 0o1777])
def test_others_see_one_folder_and_nothing_in_it_whoever_made_the_root(tmp_path, umask, mode):
    root = tmp_path / "features"
    if mode is not None:
        root.mkdir(mode=mode)
    home = made(root).parent
    made(root, "another")
    assert [*visible(root)] == [home] and home.stat().st_mode & 0o077 == 0
    assert home.name == f"of-user-{os.geteuid()}"


def test_the_folder_is_closed_from_its_first_moment(tmp_path, umask, monkeypatch):
    monkeypatch.setattr(cache_home.os, "fchmod", None)  # to close it later is too late
    store_folder(tmp_path, KEY)


def test_a_folder_that_was_opened_is_closed_again(tmp_path):
    home = made(tmp_path).parent
    home.chmod(0o755)
    store_folder(tmp_path, KEY)
    assert home.stat().st_mode & 0o777 == 0o700


def test_names_are_no_function_of_the_images_alone(tmp_path):
    first, again = (store_folder(tmp_path / "a", KEY) for _ in range(2))
    elsewhere, other = store_folder(tmp_path / "b", KEY), store_folder(tmp_path / "a", "another")
    assert first == again != other
    assert first.name != elsewhere.name
    for name in (first.name, elsewhere.name):
        assert name not in PLAIN and len(name) == 20


def test_processes_that_come_at_once_agree_on_the_names(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        assert len({*pool.map(lambda _: store_folder(tmp_path, KEY), range(32))}) == 1


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    # What somebody else put there, for whoever comes with this number.
    me = os.geteuid()
    monkeypatch.setattr(cache_home.os, "geteuid", lambda: me + 1)
    said = r"'.*of-user-.*': it belongs to another user; give another --cache-dir, or --fresh-views"
    with pytest.raises(DpmixError, match=said):
        store_folder(tmp_path, KEY)


@pytest.mark.parametrize("there", [
    lambda path: path.symlink_to("/"), lambda path: path.symlink_to("nowhere"),
    lambda path: path.write_text(""),
])  # fmt: skip
def test_what_is_no_folder_is_refused_and_links_are_not_followed(tmp_path, there):
    there(tmp_path / f"of-user-{os.geteuid()}")
    with pytest.raises(DpmixError, match=r"cannot keep private features in .*--cache-dir"):
        store_folder(tmp_path, KEY)


def test_a_disk_that_keeps_no_permissions_is_refused(tmp_path, monkeypatch):
    store_folder(tmp_path, KEY).parent.chmod(0o755)
    monkeypatch.setattr(cache_home.os, "fchmod", lambda *_: None)
    with pytest.raises(DpmixError, match="this disk can't close a folder to other users"):
        store_folder(tmp_path, KEY)


@pytest.mark.parametrize(("mode", "owner", "told"), [
    (0o777, 0, True), (0o755, 1, True), (0o1777, 1, True),
    (0o755, 0, False), (0o775, 0, False), (0o1777, 0, False),
])  # fmt: skip
def test_a_root_in_which_others_may_replace_folders_is_warned_of(
    tmp_path, monkeypatch, mode, owner, told
):
    tmp_path.chmod(mode)
    ours = os.stat_result
    found = tmp_path.stat()
    stat = type(tmp_path).stat

    def of_root(path, **kwargs):
        if path != tmp_path:
            return stat(path, **kwargs)
        uid = os.geteuid() + owner
        return ours((*found[:4], uid, *found[5:])[:10])

    monkeypatch.setattr(type(tmp_path), "stat", of_root)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        store_folder(tmp_path, KEY)
    remedy = "give a --cache-dir that belongs to you"
    assert any(remedy in str(one.message) for one in heard) == told


def earlier(root):
    """A cache as an earlier version left it."""
    folder = root / EARLIER
    folder.mkdir()
    (folder / "key.json").write_text(KEY)
    (folder / "features.bin").write_text("rows")
    return folder


def test_what_earlier_versions_left_moves_in_and_is_told_once(tmp_path, recwarn):
    earlier(tmp_path)
    folder = store_folder(tmp_path, "another").parent
    (said,) = (str(one.message) for one in recwarn)
    assert said.startswith("1 feature cache(s) of an earlier version") and "left" not in said
    assert EARLIER not in said, "a log line can be read by others too"
    assert (store_folder(tmp_path, KEY) / "features.bin").read_text() == "rows"
    assert [*visible(tmp_path)] == [folder] and len(recwarn) == 1


def test_one_that_is_in_use_stays_and_that_is_told(tmp_path):
    folder = earlier(tmp_path)
    with FileLock(folder / ".lock"), pytest.warns(UserWarning, match="1 could not be moved"):
        store_folder(tmp_path, KEY)
    assert (folder / "features.bin").exists()
    with pytest.warns(UserWarning, match="1 feature cache"):
        assert (store_folder(tmp_path, KEY) / "features.bin").exists()


@pytest.mark.parametrize("name", [EARLIER, EARLIER[::-1], "notes"])
def test_other_folders_are_left_alone(tmp_path, recwarn, name):
    folder = earlier(tmp_path).rename(tmp_path / name)
    (folder / "key.json").write_text(KEY + " ")
    store_folder(tmp_path, KEY)
    assert folder.is_dir() and not recwarn
