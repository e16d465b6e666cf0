"""The manifest against the files that it describes."""

import json
import re

import pytest

from dpmix.errors import DpmixError
from dpmix.pool.manifest import STATEMENT, ImageRecord, Manifest, ModelRecord, file_hash

MODEL = ModelRecord(
    name="painter", pipeline="P", scheduler="S", revision=None, files={"a": "1", "b": "2"},
    licence=None,
)  # fmt: skip


@pytest.fixture
def pool(class_folder):
    """A pool with its manifest, and the names of its images."""
    root = class_folder("pool", {"ant": 2, "bee": 1})
    names = ("ant/0.png", "ant/1.png", "bee/0.png")
    images = tuple(
        ImageRecord(file=name, class_name=name[:3], prompt="p", seed=1,
                    sha256=file_hash(root / name))
        for name in names
    )  # fmt: skip
    manifest = Manifest(
        model=MODEL, settings={}, date="2026-01-01", device="cpu", versions={}, images=images
    )
    (root / "manifest.json").write_text(manifest.model_dump_json())
    return root, names


def test_it_survives_writing_and_reading_and_states_that_nothing_private_was_read(pool, tmp_path):
    root, names = pool
    manifest = Manifest.read(root)
    manifest.verify(root, names)
    assert manifest.model == MODEL
    assert manifest.statement == STATEMENT and "No private image was read" in STATEMENT
    assert Manifest.read(tmp_path) is None


def test_a_file_that_was_changed_removed_or_added_is_refused(pool):
    root, names = pool
    manifest = Manifest.read(root)
    with pytest.raises(DpmixError, match=r"files missing: 1 \(ant/1.png\)"):
        manifest.verify(root, (names[0], names[2]))
    said = r"files not in it: 4 \(bee/5.png, bee/6.png, bee/7.png, ...\)"
    with pytest.raises(DpmixError, match=said):
        manifest.verify(root, (*names, *(f"bee/{i}.png" for i in (5, 6, 7, 8))))
    (root / "bee" / "0.png").write_bytes((root / "ant" / "0.png").read_bytes())
    with pytest.raises(DpmixError, match=r"changed \(sha256\): 1 \(bee/0.png\); .*draws .* again"):
        manifest.verify(root, names)


@pytest.mark.parametrize("change", ["images", "text"])
def test_a_file_of_that_name_that_is_not_a_manifest_is_refused(pool, change):
    path = pool[0] / "manifest.json"
    content = json.loads(path.read_text())
    path.write_text("hello" if change == "text" else json.dumps(content | {change: "other"}))
    with pytest.raises(DpmixError, match=r"is not a manifest of a pool .*remove it"):
        Manifest.read(pool[0])


def test_a_model_is_identified_by_its_revision_or_by_its_files():
    assert MODEL.model_copy(update={"revision": "12ab"}).identity == "painter at 12ab"
    changed = MODEL.model_copy(update={"files": {"a": "1", "b": "3"}})
    assert re.fullmatch(r"a local \w+ with files [0-9a-f]{16}", MODEL.identity)
    assert MODEL.identity != changed.identity
