"""The journal of a pool under construction."""

import json

import pytest

from dpmix.errors import DpmixError
from dpmix.public.manifest import ImageRecord, Manifest, ModelRecord, file_hash
from dpmix.public.pool_files import JOURNAL
from dpmix.public.synthesis_journal import SynthesisJournal

SETTINGS = {"seed": 1, "steps": 2}
MODEL = ModelRecord(
    name="m", pipeline="P", scheduler="S", revision="1", files=None, licence=None
)  # fmt: skip


@pytest.fixture
def drawn(class_folder):
    """A folder with three images, and their records."""
    root = class_folder("pool", {"ant": 2, "bee": 1})
    files = ("ant/0.png", "ant/1.png", "bee/0.png")
    return root, [
        ImageRecord(file=f, class_name=f[:3], prompt="p", seed=0, sha256=file_hash(root / f))
        for f in files
    ]


def manifest(records):
    return Manifest(
        date="d", model=MODEL, settings=SETTINGS, device="cpu", versions={}, images=tuple(records)
    )


@pytest.fixture
def begun(drawn):
    """A journal of two of the three images."""
    root, records = drawn
    (root / JOURNAL).write_text(json.dumps(SETTINGS) + "\n")
    journal = SynthesisJournal(root)
    journal.add(records[:2])
    return journal, records


def test_images_that_are_written_down_and_intact_count_and_no_others(begun, truncate):
    journal, records = begun
    truncate(journal.root / "ant" / "1.png")
    assert journal.begin(SETTINGS) == {"ant/0.png": records[0]}


def test_half_written_files_of_a_killed_process_are_removed(begun):
    journal, _ = begun
    half = journal.root / "ant" / ".1.png.123.part"
    half.write_bytes(b"half")
    journal.begin(SETTINGS)
    assert not half.exists()


def test_a_file_that_vanished_does_not_count(begun):
    journal, records = begun
    (journal.root / "ant" / "0.png").unlink()
    assert journal.begin(SETTINGS) == {"ant/1.png": records[1]}


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_that_was_cut_short_is_dropped_and_the_next_one_is_whole(begun, cut):
    journal, records = begun
    journal.path.write_text(journal.path.read_text()[:-cut])
    there = journal.begin(SETTINGS)
    assert there == {"ant/0.png": records[0]} if cut > 1 else len(there) == 2
    journal.add([records[2]])
    assert set(journal.begin(SETTINGS)) == {*there, "bee/0.png"}


def test_finishing_leaves_the_manifest_alone_and_going_on_starts_from_it(begun):
    journal, records = begun
    journal.add([records[2]])
    journal.finish(manifest(records))
    assert not journal.path.exists()
    assert Manifest.read(journal.root).images == tuple(records)
    assert journal.begin(SETTINGS) == {record.file: record for record in records}


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_refused_by_name(begun, finished):
    journal, records = begun
    if finished:
        journal.finish(manifest(records))
    with pytest.raises(DpmixError, match="was begun with steps 2, not 3; give the same settings"):
        journal.begin({"seed": 1, "steps": 3})


def test_a_folder_of_other_things_is_refused_and_left_alone(class_folder):
    root = class_folder("scans", {"ant": 1})
    with pytest.raises(DpmixError, match="holds something else than a pool"):
        SynthesisJournal(root).begin(SETTINGS)
    assert [path.name for path in root.iterdir()] == ["ant"]


def test_hidden_files_do_not_make_a_folder_something_else(tmp_path):
    (tmp_path / ".lock").touch()
    assert SynthesisJournal(tmp_path).begin(SETTINGS) == {}


def test_a_damaged_journal_is_refused(begun):
    journal, _ = begun
    journal.path.write_text("{")
    with pytest.raises(DpmixError, match="is damaged"):
        journal.begin(SETTINGS)
