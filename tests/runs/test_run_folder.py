"""A folder in use is not trampled on, and no stop makes it lie or lose."""

import os
from pathlib import Path

import pytest

from dpmix.errors import DpmixError
from dpmix.files import text_writer
from dpmix.runs.folder import RunFolder


class StoppedError(BaseException):
    """The process is killed here."""


def save(folder, said):
    """Every file says which save it is of."""
    files = ("config", "privacy", "model", "metrics", "card", "report")
    folder.save(**{name: text_writer(said) for name in files})


def opened(root, overwrite=True):
    folder = RunFolder(root)
    folder.create(overwrite)
    return folder


def reads(path):
    return path.read_text() if path.exists() else None


def stop_after(monkeypatch, operations):
    """Kill the process at the given number of renames and removals from now on."""
    left = [operations]

    def counted(original):
        def call(self, *args, **kwargs):
            if left[0] == 0:
                raise StoppedError
            left[0] -= 1
            return original(self, *args, **kwargs)

        return call

    for name in ("replace", "unlink", "rmdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))


def every_stop(tmp_path, monkeypatch, act):
    """Run `act(root)` on a folder with a finished run, stopped at every operation in turn."""
    for operations in range(40):
        root = tmp_path / str(operations)
        folder = opened(root)
        save(folder, "1")
        with monkeypatch.context() as patch:
            stop_after(patch, operations)
            try:
                act(folder, root)
            except StoppedError:
                stopped = True
            else:
                stopped = False
        folder.close()
        yield root
        if not stopped:
            assert operations > 5
            return
    pytest.fail("never came to an end")


def test_a_save_that_is_stopped_never_leaves_an_older_statement_beside_newer_weights(
    tmp_path, monkeypatch
):
    for root in every_stop(tmp_path, monkeypatch, lambda folder, root: save(folder, "2")):
        found = RunFolder(root)
        model, privacy = reads(found.model), reads(found.privacy)
        assert model in ("1", "2") and privacy >= model
        for beside in (found.metrics, found.card, found.report):
            assert reads(beside) in (None, model)


def overwrite(folder, root):
    folder.close()
    successor = opened(root)
    try:
        save(successor, "0.5")  # a smaller epsilon: beside the old weights it would be a lie
    finally:
        successor.close()


def test_an_overwrite_that_is_stopped_keeps_a_model_and_never_mixes_two_runs(tmp_path, monkeypatch):
    for root in every_stop(tmp_path, monkeypatch, overwrite):
        found = RunFolder(root)
        models = [reads(found.model), reads(found.previous / found.model.name)]
        assert any(models), "one of the two models is always there"
        if models[0] is not None:
            for beside in (found.privacy, found.metrics, found.card, found.report):
                assert reads(beside) in (None, models[0])
        if models[1] is not None:
            for name in (
                "privacy.json",
                "config.yaml",
                "metrics.json",
                "MODEL_CARD.md",
                "report.html",
            ):
                assert reads(found.previous / name) == models[1]


def test_an_overwrite_after_a_stopped_overwrite_never_mixes_either(tmp_path, monkeypatch):
    for root in every_stop(tmp_path, monkeypatch, overwrite):
        with monkeypatch.context() as patch:
            stop_after(patch, 9)
            try:
                successor = opened(root)
                save(successor, "0.1")
            except StoppedError:
                pass
            finally:
                successor.close()
        found = RunFolder(root)
        for folder in (found.root, found.previous):
            model = reads(folder / found.model.name)
            if model is not None and folder == found.previous:
                assert reads(folder / found.privacy.name) == model
                assert reads(folder / found.config.name) == model
                # The run set aside may have been stopped itself, before its metrics and card.
                for beside in (found.metrics, found.card, found.report):
                    assert reads(folder / beside.name) in (None, model)
            elif model is not None:
                assert reads(folder / found.privacy.name) in (None, model)


def test_a_folder_is_held_against_runs_and_no_other_way_touched(tmp_path):
    first = opened(tmp_path / "run")
    save(first, "1")
    with pytest.raises(DpmixError, match="is in use by another run"), RunFolder(first.root).held():
        pass
    first.close()
    with RunFolder(first.root).held(), pytest.raises(DpmixError, match="is in use by another run"):
        opened(first.root)
    opened(first.root).close()
    (tmp_path / "handed-out").mkdir()
    with RunFolder(tmp_path / "handed-out").held():
        assert not list((tmp_path / "handed-out").iterdir())


def test_an_overwrite_leaves_the_new_run_alone_and_nothing_else_touched(tmp_path):
    first = opened(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    save(first, "1")
    first.log_private({"step": 1})
    first.close()
    second = opened(tmp_path)
    assert reads(second.model) == "1", "kept until there is a model to put in its place"
    assert reads(second.private_log) == '{"step": 1}\n', "a run that fails here loses nothing"
    for step in (1, 2):
        second.log_private({"mine": step})
    assert reads(second.private_log) == '{"mine": 1}\n{"mine": 2}\n'
    save(second, "2")
    assert all(reads(path) == "2" for path in second.handed_out())
    assert not second.previous.exists()
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_what_a_killed_process_had_staged_is_removed_by_the_next_run(tmp_path):
    folder = opened(tmp_path)
    folder.close()
    (tmp_path / ".model.safetensors.123.part").write_text("half")
    (tmp_path / ".gitignore").write_text("*")
    opened(tmp_path)
    assert [path.name for path in tmp_path.glob(".*")] == [".gitignore"]


def test_a_failed_start_lets_go_of_the_folder(tmp_path, no_space, monkeypatch):
    folder = RunFolder(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "private_notice", tmp_path / "nowhere" / "PRIVATE.txt")
        with pytest.raises(DpmixError, match="cannot write"):
            folder.create(overwrite=False)
    (tmp_path / "run" / "diagnostics" / "PRIVATE.txt").write_text("")
    opened(tmp_path / "run")


def test_what_stands_in_the_way_of_an_overwrite_is_named_and_the_model_kept(tmp_path):
    first = opened(tmp_path)
    save(first, "1")
    first.close()
    (tmp_path / "previous").write_text("a file")
    second = opened(tmp_path)
    with pytest.raises(DpmixError, match="cannot replace the files in"):
        save(second, "2")
    assert all(reads(path) == "1" for path in second.handed_out())


def test_an_interrupted_save_leaves_no_litter(tmp_path, monkeypatch):
    folder = opened(tmp_path)
    save(folder, "1")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_set_aside", lambda: None)
        patch.setattr(type(folder.card), "replace", lambda *_: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            save(folder, "2")
    assert not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_the_last_save(tmp_path, no_space):
    folder = opened(tmp_path / "run")
    save(folder, "1")
    with pytest.raises(DpmixError, match="cannot write"):
        save(folder, "2" * 10_000)
    assert all(reads(path) == "1" for path in folder.handed_out())
    assert not list(folder.root.glob(".*"))


def test_a_full_disk_is_named_when_the_private_log_hits_it(tmp_path, no_space):
    folder = opened(tmp_path / "run")
    with pytest.raises(DpmixError, match=r"cannot write '.*steps\.jsonl'.*saved model is unharmed"):
        for _ in range(100):
            folder.log_private({"text": "x" * 100})


def test_a_folder_whose_run_was_stopped_before_its_first_step_is_taken_over(tmp_path):
    root = tmp_path / "run"
    first = opened(root)
    with pytest.raises(DpmixError, match="in use by another run"):
        opened(root, overwrite=False)
    first.close()
    second = opened(root, overwrite=False)
    second.log_private({"step": 1})
    second.close()
    with pytest.raises(DpmixError, match="is not empty"):
        opened(root, overwrite=False)
    second.private_log.unlink()
    second.checkpoints.mkdir(exist_ok=True)
    (second.checkpoints / "step-00000001.pt").touch()
    with pytest.raises(DpmixError, match="is not empty"):
        opened(root, overwrite=False)


def test_a_run_without_a_model_yet_is_told_from_no_run(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(DpmixError, match=r"is no run folder: it has no privacy\.json"):
        folder.refuse_if_missing(folder.privacy)
    folder.checkpoints.mkdir()
    with pytest.raises(DpmixError, match=f"stopped before .* dpmix train --resume {tmp_path}$"):
        folder.refuse_if_missing(folder.privacy)
    folder.privacy.write_text("{}")
    folder.refuse_if_missing(folder.privacy)


def test_a_folder_with_anything_in_it_is_refused_without_overwrite(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DpmixError, match=r"not empty; give another --output, or --overwrite"):
        opened(tmp_path, overwrite=False)


def test_overwrite_takes_no_folder_that_holds_no_run(tmp_path):
    (tmp_path / "scan.png").write_bytes(b"an image")
    (tmp_path / "diagnostics").mkdir()
    with pytest.raises(DpmixError, match=r"replaces a run, but folder .* holds something else"):
        opened(tmp_path, overwrite=True)


def test_what_is_private_is_for_its_owner_only(tmp_path):
    folder = opened(tmp_path / "run")
    assert folder.diagnostics.stat().st_mode & 0o777 == 0o700


def test_what_is_private_is_closed_from_its_first_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "chmod", lambda *_: None)  # to close it later is too late
    before = os.umask(0)
    try:
        folder = opened(tmp_path / "run")
    finally:
        os.umask(before)
    assert folder.diagnostics.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_another_run_writes_to_is_refused_until_it_ends(tmp_path):
    first = opened(tmp_path / "run")
    with pytest.raises(DpmixError, match="is in use by another run"):
        opened(tmp_path / "run")
    first.close()
    opened(tmp_path / "run")


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DpmixError, match="cannot make run folder"):
        opened(tmp_path / "file" / "run")
