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


def test_a_changed_file_is_refused(pool):
    root, names = pool
    (root / "bee" / "0.png").write_bytes((root / "ant" / "0.png").read_bytes())
    said = r"files changed \(sha256\): 1 \(bee/0.png\); .*draws .* again"
    with pytest.raises(DpmixError, match=said):
        Manifest.read(root).verify(root, names)


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (("ant/0.png", "bee/0.png"), r"files missing: 1 \(ant/1.png\)"),
        (
            ("ant/0.png", "ant/1.png", *(f"bee/{i}.png" for i in (0, 5, 6, 7, 8))),
            r"files not in it: 4 \(bee/5.png, bee/6.png, bee/7.png, ...\)",
        ),
    ],
)
def test_a_missing_file_and_one_that_is_not_in_it_are_refused(pool, present, said):
    with pytest.raises(DpmixError, match=said):
        Manifest.read(pool[0]).verify(pool[0], present)


@pytest.mark.parametrize("change", ["format", "images", "text"])
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
