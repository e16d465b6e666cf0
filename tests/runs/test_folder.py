"""A folder in use is left alone, and no kill makes it lie or lose a model."""

import os

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.folder import RunFolder


class KilledError(BaseException):
    """The process is killed here."""


def publish(folder, text):
    """Publish files that all say which time this is."""
    folder.publish(text.encode(), dict.fromkeys(folder.published[1:], text))


def opened(root, overwrite=True):
    folder = RunFolder(root)
    folder.create(overwrite)
    return folder


def trained(root, text="1"):
    """A complete run, closed."""
    folder = opened(root)
    folder.log_private({"step": 1})
    publish(folder, text)
    folder.close()
    return folder


def reads(path):
    return path.read_text() if path.exists() else None


def consistent(folder):
    """The model's text, or None; every other published file is of this model, or missing."""
    model, *copies = map(reads, folder.published)
    assert {*copies} <= {None, model}
    return model


def kill_after(monkeypatch, operations):
    """Kill the process at the given number of changes to the file system from now on."""
    left = [operations]

    def counted(original):
        def call(*args, **kwargs):
            if left[0] == 0:
                raise KilledError
            left[0] -= 1
            return original(*args, **kwargs)

        return call

    for name in ("replace", "rename", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


def every_kill(tmp_path, monkeypatch, act):
    """Run `act(folder)` on a folder with a complete run, killed at every operation in turn."""
    for operations in range(60):
        folder = trained(tmp_path / str(operations) / "run")
        with monkeypatch.context() as patch:
            kill_after(patch, operations)
            try:
                act(folder)
            except KilledError:
                killed = True
            else:
                killed = False
        folder.close()
        yield RunFolder(folder.root)
        if not killed:
            assert operations > 4
            return
    pytest.fail("never came to an end")


def resume(folder):
    folder.reopen()
    publish(folder, "2")


def overwrite(folder):
    successor = opened(folder.root)
    try:
        publish(successor, "2")
    finally:
        successor.close()


@pytest.mark.parametrize("act", [resume, overwrite])
def test_a_kill_never_loses_a_model_nor_leaves_files_of_other_weights(tmp_path, monkeypatch, act):
    seen = set()
    for found in every_kill(tmp_path, monkeypatch, act):
        seen.add(consistent(found))
        overwrite(found)  # nothing that is left is in the way of another run
        assert consistent(found) == "2"
    assert seen == {"1", "2"}


def test_a_folder_is_held_against_runs(tmp_path):
    first = opened(tmp_path / "run")
    with pytest.raises(DpmixError, match="is in use by another process"):
        opened(tmp_path / "run")
    with (
        pytest.raises(DpmixError, match="is in use by another process"),
        RunFolder(first.root).held(),
    ):
        pass
    first.close()
    with RunFolder(first.root).held(), pytest.raises(DpmixError, match="in use by another"):
        opened(first.root)
    opened(first.root).close()
    (tmp_path / "handed-out").mkdir()
    with RunFolder(tmp_path / "handed-out").held():
        assert not list((tmp_path / "handed-out").iterdir())


def test_an_overwrite_keeps_the_other_model_and_nothing_else_of_the_other_run(tmp_path):
    folder = trained(tmp_path / "run")
    folder.audit.touch()
    (folder.root / "tensorboard").mkdir()
    folder.log_private({"theirs": 1})
    second = opened(folder.root)
    assert folder.audit.exists(), "it says what an audit of the model that is still there found"
    second.clear_diagnostics()
    second.log_private({"mine": 1})
    assert consistent(second) == "1" and reads(second.private_log) == '{"mine": 1}\n'
    assert {*folder.root.iterdir()} == {*folder.published, folder.diagnostics, folder.audit}


@pytest.mark.parametrize(("name", "run"), [("thesis.tex", True), ("diagnostics/scan.png", False)])
def test_an_overwrite_never_takes_what_no_run_wrote(tmp_path, name, run):
    root = tmp_path / "run"
    if run:
        trained(root)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text("years of work")
    with pytest.raises(DpmixError, match=r"replaces a run, but folder .* holds something else"):
        opened(root)
    with pytest.raises(DpmixError, match=r"not empty; give another --output, or --overwrite"):
        opened(root, overwrite=False)
    assert reads(root / name) == "years of work"


def test_a_folder_whose_run_was_stopped_before_its_first_step_is_taken_over(tmp_path):
    opened(tmp_path / "run", overwrite=False).close()
    second = opened(tmp_path / "run", overwrite=False)
    second.log_private({"step": 1})
    second.close()
    with pytest.raises(DpmixError, match="is not empty"):
        opened(second.root, overwrite=False)
    second.private_log.unlink()
    second.checkpoints.mkdir()
    (second.checkpoints / "step-00000001.pt").touch()
    with pytest.raises(DpmixError, match="is not empty"):
        opened(second.root, overwrite=False)


def test_a_full_disk_leaves_the_files_of_the_last_time(tmp_path, no_space):
    folder = opened(tmp_path / "run")
    publish(folder, "1")
    with pytest.raises(DpmixError, match="cannot write"):
        publish(folder, "2" * 10_000)
    assert consistent(folder) == "1" and not list(folder.root.glob(".*"))
    with pytest.raises(DpmixError, match=r"cannot write '.*steps\.jsonl'.*model is unharmed"):
        for _ in range(100):
            folder.log_private({"text": "x" * 100})


def test_what_is_private_is_closed_from_its_first_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "chmod", lambda *_, **__: None)  # to close it later is too late
    before = os.umask(0)
    try:
        folder = opened(tmp_path / "run")
    finally:
        os.umask(before)
    assert folder.diagnostics.stat().st_mode & 0o777 == 0o700
