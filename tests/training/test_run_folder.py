"""Files are written whole or not at all, and a folder in use is not trampled on."""

import json
import resource
import signal

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.training.run_folder import RunFolder, to_json, write_text
from dpmix.training.weights import load_weights, save_weights


@pytest.fixture
def no_space():
    """No file of this process may grow beyond 4 KiB: the kernel's own way to fill a disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_text_and_no_litter(tmp_path, no_space):
    path = tmp_path / "metrics.json"
    write_text(path, "old")
    with pytest.raises(DpmixError, match=r"cannot write '.*metrics\.json'.*earlier file is unharm"):
        write_text(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


def test_a_full_disk_leaves_the_old_weights(tmp_path, no_space):
    path = tmp_path / "model.safetensors"
    save_weights(path, {"w": torch.ones(3)})
    with pytest.raises(DpmixError, match=r"cannot write '.*model\.safetensors'"):
        save_weights(path, {"w": torch.ones(100_000)})
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.zeros(3))
    load_weights(path, model)
    assert model.w.tolist() == [1, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    from dpmix.training.run_folder import write_aside

    path = tmp_path / "card.md"
    write_text(path, "old")

    def interrupted(aside):
        aside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_aside(path, interrupted)
    assert path.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["card.md"]


def test_a_full_disk_is_named_when_the_private_log_hits_it(tmp_path, no_space):
    folder = RunFolder(tmp_path / "run")
    folder.create(overwrite=False)
    with pytest.raises(DpmixError, match=r"cannot write '.*steps\.jsonl'.*saved model is unharmed"):
        for _ in range(100):
            folder.log_private({"text": "x" * 100})


def test_a_folder_with_anything_in_it_is_refused_without_overwrite(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DpmixError, match=r"not empty; give another --output, or --overwrite"):
        RunFolder(tmp_path).create(overwrite=False)


def test_overwrite_removes_a_runs_files_and_nothing_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    folder = RunFolder(tmp_path)
    folder.diagnostics.mkdir()
    for path in (folder.model, folder.privacy, folder.private_log):
        path.write_text("of the run before")
    folder.create(overwrite=True)
    assert folder.model.exists(), "kept until there is a model to put in its place"
    folder.begin("settings")
    assert not folder.model.exists() and not folder.privacy.exists()
    assert not folder.private_log.exists()
    assert folder.config.read_text() == "settings"
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_place_where_no_folder_can_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DpmixError, match="cannot make run folder"):
        RunFolder(tmp_path / "file" / "run").create(overwrite=False)


def test_json_has_no_infinity_or_nan():
    text = to_json({"a": [float("inf"), float("nan"), 1.5], "b": {"c": -float("inf")}})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": ["inf", "nan", 1.5],
        "b": {"c": "-inf"},
    }


def test_weights_of_another_model_damaged_or_missing_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(DpmixError, match="no weights at"):
        load_weights(path, torch.nn.Linear(1, 1))
    save_weights(path, torch.nn.Linear(2, 3).state_dict())
    with pytest.raises(DpmixError, match="do not fit the model"):
        load_weights(path, torch.nn.Linear(4, 3))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DpmixError, match="damaged"):
        load_weights(path, torch.nn.Linear(2, 3))
