"""The journal of a pool under construction."""

import pytest

from dpmix.errors import DpmixError
from dpmix.pool.generate import Begun, SynthesisJournal
from dpmix.pool.manifest import ImageRecord, Manifest, ModelRecord, Session, file_hash

FIRST = Session(date="2026-01-01", device="cpu", versions={"torch": "2"})
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
        ImageRecord(
            file=f, class_name=f[:3], prompt="p", seed=0, sha256=file_hash(root / f), session=0
        )
        for f in files
    ]


def manifest(records):
    return Manifest(model=MODEL, settings=SETTINGS, sessions=(FIRST,), images=tuple(records))


@pytest.fixture
def begun(drawn):
    """A journal of two of the three images."""
    root, records = drawn
    journal = SynthesisJournal(root)
    journal.start(SETTINGS, (FIRST,), Begun((), {}, frozenset()))
    journal.intend(["ant/0.png", "ant/1.png"])
    journal.add(records[:2])
    return journal, records


def test_images_that_are_written_down_and_intact_count_and_no_others(begun, truncate):
    journal, records = begun
    truncate(journal.root / "ant" / "1.png")
    found = journal.read(SETTINGS)
    assert found.images == {"ant/0.png": records[0]}
    assert found.own == {"ant/0.png", "ant/1.png"}
    assert found.sessions == (FIRST,)


def test_a_file_that_vanished_does_not_count(begun):
    journal, records = begun
    (journal.root / "ant" / "0.png").unlink()
    assert journal.read(SETTINGS).images == {"ant/1.png": records[1]}


def test_a_file_that_was_about_to_be_made_is_known_as_ones_own(begun):
    journal, _ = begun
    journal.intend(["bee/0.png"])
    found = journal.read(SETTINGS)
    assert "bee/0.png" in found.own and "bee/0.png" not in found.images
    journal.start(SETTINGS, (FIRST,), found)
    assert journal.read(SETTINGS) == found


def test_half_written_files_of_a_killed_process_are_removed(begun):
    journal, _ = begun
    halves = [journal.root / "ant" / ".1.png.123.part", journal.root / ".unfinished.jsonl.9.part"]
    for half in halves:
        half.write_bytes(b"half")
    journal.read(SETTINGS)
    assert not any(half.exists() for half in halves)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_last_line_that_was_cut_short_is_dropped_and_the_next_one_is_whole(begun, cut):
    journal, records = begun
    journal.path.write_text(journal.path.read_text()[:-cut])
    found = journal.read(SETTINGS)
    assert len(found.images) == (2 if cut == 1 else 1)
    journal.start(SETTINGS, (FIRST,), found)
    journal.add([records[2]])
    assert set(journal.read(SETTINGS).images) == {*found.images, "bee/0.png"}


def test_finishing_leaves_the_manifest_alone_and_going_on_starts_from_it(begun):
    journal, records = begun
    journal.add([records[2]])
    journal.finish(manifest(records))
    assert not journal.path.exists()
    assert Manifest.read(journal.root).images == tuple(records)
    found = journal.read(SETTINGS)
    assert found.images == {record.file: record for record in records}
    assert found.sessions == (FIRST,)


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_are_refused_by_name(begun, finished):
    journal, records = begun
    if finished:
        journal.finish(manifest(records))
    with pytest.raises(DpmixError, match="was begun with steps 2, not 3; give the same settings"):
        journal.read({"seed": 1, "steps": 3})


def test_a_folder_of_other_things_is_refused_and_left_alone(class_folder):
    root = class_folder("scans", {"ant": 1})
    with pytest.raises(DpmixError, match="holds something else than a pool"):
        SynthesisJournal(root).read(SETTINGS)
    assert [path.name for path in root.iterdir()] == ["ant"]


def test_hidden_files_do_not_make_a_folder_something_else(tmp_path):
    (tmp_path / ".lock").touch()
    assert SynthesisJournal(tmp_path).read(SETTINGS) == Begun((), {}, frozenset())


@pytest.mark.parametrize("text", ["", "{", "{}\n", '{"settings": 3}\n'])
def test_a_damaged_journal_is_refused(begun, text):
    journal, _ = begun
    journal.path.write_text(text)
    with pytest.raises(DpmixError, match="is damaged"):
        journal.read(SETTINGS)
