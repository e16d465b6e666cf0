"""The manifest against the files that it describes."""

import json
import re

import pytest

from dpmix.errors import DpmixError
from dpmix.pool.manifest import STATEMENT, ImageRecord, Manifest, ModelRecord, Session, file_hash

MODEL = ModelRecord(
    name="painter", pipeline="P", scheduler="S", revision=None, files={"a": "1", "b": "2"},
    licence=None,
)  # fmt: skip
FIRST = Session(date="2026-01-01", device="cpu", versions={})


@pytest.fixture
def pool(class_folder):
    """A pool with its manifest, and the names of its images."""
    root = class_folder("pool", {"ant": 2, "bee": 1})
    names = ("ant/0.png", "ant/1.png", "bee/0.png")
    images = tuple(
        ImageRecord(
            file=name,
            class_name=name[:3],
            prompt="p",
            seed=1,
            session=0,
            sha256=file_hash(root / name),
        )
        for name in names
    )
    manifest = Manifest(model=MODEL, settings={}, sessions=(FIRST,), images=images)
    (root / "manifest.json").write_text(manifest.model_dump_json())
    return root, names


def test_it_survives_writing_and_reading_and_states_that_nothing_private_was_read(pool):
    root, names = pool
    manifest = Manifest.read(root)
    manifest.verify(root, names)
    assert manifest.model == MODEL
    assert manifest.statement == STATEMENT
    assert "No private image was read" in STATEMENT


def test_a_folder_without_a_manifest_has_none(tmp_path):
    assert Manifest.read(tmp_path) is None


def test_a_changed_file_is_refused(pool):
    root, names = pool
    (root / "bee" / "0.png").write_bytes((root / "ant" / "0.png").read_bytes())
    with pytest.raises(
        DpmixError, match=r"files changed \(sha256\): 1 \(bee/0.png\); .*draws .* anew"
    ):
        Manifest.read(root).verify(root, names)


def test_a_missing_file_is_refused(pool):
    root, names = pool
    with pytest.raises(DpmixError, match=r"files missing: 1 \(ant/1.png\)"):
        Manifest.read(root).verify(root, (names[0], names[2]))


def test_a_file_that_is_not_in_it_is_refused(pool):
    root, names = pool
    strange = tuple(f"bee/{i}.png" for i in range(5, 9))
    said = r"files not in it: 4 \(bee/5.png, bee/6.png, bee/7.png, ...\)"
    with pytest.raises(DpmixError, match=said):
        Manifest.read(root).verify(root, names + strange)


@pytest.mark.parametrize("change", ["format", "images", "text"])
def test_a_file_of_that_name_that_is_no_manifest_is_refused(pool, change):
    path = pool[0] / "manifest.json"
    content = json.loads(path.read_text())
    if change == "text":
        path.write_text("hello")
    else:
        path.write_text(json.dumps(content | {change: "other"}))
    with pytest.raises(DpmixError, match=r"is no manifest of a pool .*remove it"):
        Manifest.read(pool[0])


def test_a_model_is_identified_by_its_revision_or_by_its_files():
    assert MODEL.model_copy(update={"revision": "12ab"}).identity == "painter at 12ab"
    changed = MODEL.model_copy(update={"files": {"a": "1", "b": "3"}})
    assert re.fullmatch(r"a local \w+ with files [0-9a-f]{16}", MODEL.identity)
    assert MODEL.identity != changed.identity


def test_hashing_a_file_that_is_gone_is_refused(tmp_path):
    with pytest.raises(DpmixError, match="cannot read"):
        file_hash(tmp_path / "gone")
