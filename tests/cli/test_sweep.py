"""A sweep from its file to its table, end to end; and the private selection of its best run."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from dpmix.files import lock
from dpmix.sweeps.run import finish

SWEEP = """
title: two methods
settings: {data: DATA, model: cnn-small, steps: 1, expected_batch_size: 20, delta: 0.0001}
rows:
  none: {method: none}
  self-aug: {method: self-aug, k_base: 2}
grid: {epsilon: [8], seed: [0, 1]}
"""
SELECTION = """
title: rates
settings: {data: DATA, model: cnn-small, steps: 1, expected_batch_size: 20, method: none}
grid: {learning_rate: [0.1, 1.0]}
"""

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")


@pytest.fixture
def write(tmp_path, digits_npz):
    """write(text): the file of a sweep of the small digits."""

    def to_file(text):
        path = tmp_path / "small.yaml"
        path.write_text(text.replace("DATA", str(digits_npz)))
        return path

    return to_file


@pytest.fixture
def file(write):
    return write(SWEEP)


def test_a_sweep_is_run_collected_shown_and_drawn(dpmix, file, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    status, out, err = dpmix("sweep", file, "--output", folder, "--jobs", 1)
    assert (status, err) == (0, "")
    assert "two methods: 4 runs" in out and "| self-aug |" in out
    assert "epsilon of choosing the best run, at delta 0.0001" in out
    assert "no epsilon covers them together" in out

    frame = pd.read_csv(folder / "results.csv")
    assert sorted(zip(frame["row"], frame["seed"], strict=True)) == [
        ("none", 0), ("none", 1), ("self-aug", 0), ("self-aug", 1)]  # fmt: skip
    run = folder / "runs" / frame["config"][0]
    numbers = json.loads((run / "metrics.json").read_text())
    assert frame["accuracy"][0] == numbers["accuracy"]

    _, table, _ = dpmix("table", folder, "--fact", "worst_class_accuracy")
    assert "worst class accuracy in %" in table
    for kind in ("against", "classes"):
        picture = tmp_path / f"{kind}.png"
        assert dpmix("plot", folder, "--kind", kind, "--output", picture)[0] == 0
        assert len(Image.open(picture).convert("L").getcolors()) > 20

    # Given again, there is nothing left to do; the CSV is made from the runs alone.
    (folder / "results.csv").unlink()
    monkeypatch.setattr("dpmix.sweeps.run.fit", None)
    assert dpmix("sweep", file, "--output", folder, "--jobs", 1)[0] == 0
    assert pd.read_csv(folder / "results.csv").equals(frame)


def test_settings_are_chosen_on_images_held_out_and_then_tested(dpmix, write, tmp_path):
    file = write(
        SWEEP.replace("seed: [0, 1]", "seed: [0]").replace("  none: {method: none}\n", "")
        + "tune: {grid: {learning_rate: [0.0001, 1.0], seed: [9]}, validation_fraction: 0.5}"
    )
    status, out, _ = dpmix("sweep", file, "--output", tmp_path / "out", "--jobs", 1)
    assert status == 0 and "tuning of learning_rate on held-out images: 2 runs" in out
    tries, results = (
        pd.read_csv(tmp_path / "out" / f"{name}.csv") for name in ("tuning", "results")
    )
    assert set(tries["judged_on"]) == {"validation"} and set(results["judged_on"]) == {"test"}
    best = tries["learning_rate"][tries["accuracy"].idxmax()]
    assert [json.loads(said) for said in results["tuned"]] == [{"learning_rate": best}]
    assert re.search(rf"self-aug +epsilon 8 +learning_rate {best}\s", out)

    out = dpmix("sweep", file, "--dry-run", "--set", "steps=7")[1]
    assert "steps 7" in out
    assert "two methods: 2 tries, then 1 runs" in out
    assert out.count("validation_fraction 0.5") == 2
    assert out.count("learning_rate as its tries choose") == 1


def test_runs_that_fail_are_told_and_the_others_kept(dpmix, write, tmp_path):
    (tmp_path / "no.npz").write_bytes(b"-")
    bad = f"none: {{data: {tmp_path}/no.npz}}\n  huge: {{learning_rate: 1.0e+39}}"
    path = write(SWEEP.replace("none: {method: none}", bad).replace("DATA", "mnist5k"))
    folder = tmp_path / "out"
    status, out, _ = dpmix("sweep", path, "--output", folder, "--jobs", 1)
    assert status == 1
    assert "failed: none" in out and "no.npz" in out
    assert "failed: huge" in out and "RuntimeError: " in out  # a library's error, not ours
    assert set(pd.read_csv(folder / "results.csv")["row"]) == {"self-aug"}


def test_a_stopped_sweep_is_resumed(dpmix, file, tmp_path, monkeypatch):
    folder = tmp_path / "out"

    def stopped(run, root, threads, gpu):
        outcome = finish(run, root, threads, gpu)
        if len(list(root.parent.iterdir())) == 2:
            raise KeyboardInterrupt
        return outcome

    with monkeypatch.context() as patch:
        patch.setattr("dpmix.sweeps.run.finish", stopped)
        _, out, _ = dpmix("sweep", file, "--output", folder, "--jobs", 1)
    assert "stopped; the same command resumes it" in out
    assert len(pd.read_csv(folder / "results.csv")) == 1
    status, out, _ = dpmix("sweep", file, "--output", folder, "--jobs", 1)
    assert status == 0
    assert len(pd.read_csv(folder / "results.csv")) == 4


def on_cluster(path, folder, *flags):
    """In a process of its own: submitit, once imported, closes the handlers of all logs."""
    command = [sys.executable, "-m", "dpmix", "sweep", path, "--output", folder, *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_a_cluster_gets_each_run_as_a_job(write, tmp_path):
    path, folder = write(SELECTION.replace("[0.1, 1.0]", "[0.1]")), tmp_path / "out"
    made = on_cluster(path, folder, "--cluster", "local", "--cluster-option", "timeout_min=5")
    assert (made.returncode, made.stderr) == (0, "")
    assert len(pd.read_csv(folder / "results.csv")) == 1 and list((folder / "logs").iterdir())


def test_a_private_selection_leaves_one_run_and_no_trace_of_the_others(
    dpmix, write, tmp_path, monkeypatch
):
    monkeypatch.setattr("dpmix.sweeps.selection.number_of_runs", lambda mean, coin: 2)
    path, folder = write(SELECTION), tmp_path / "out"
    given = ("sweep", path, "--output", folder, "--private-selection", "--expected-runs", 2,
             "--jobs", 1)  # fmt: skip
    status, out, err = dpmix(*given)
    assert (status, err) == (0, "")
    assert {entry.name for entry in folder.iterdir()} == {"best", ".lock"}
    said = json.loads((folder / "best/privacy.json").read_text())
    assert said["expected_runs"] == 2 and said["accountant"] == "RDP"
    assert "best of a random number of runs" in " ".join(out.split())
    assert dpmix("verify", folder / "best")[0] == 0
    (folder / "runs").mkdir()
    status, _, err = dpmix(*given)
    assert status == 2 and "is complete, and its best run was moved" in err
    assert "which the selection's epsilon does not count" in err
    out = dpmix(*given[:4], "--jobs", 1)[1]
    assert f"'{folder / 'best'}' was published by a private selection" in out


def test_a_folder_that_is_in_use_or_no_folder_is_told(dpmix, file, tmp_path):
    folder = tmp_path / "out"
    held = lock(folder / ".lock", "it")
    status, _, err = dpmix("sweep", file, "--output", folder)
    held.release()
    assert status == 2 and "is in use by another process" in err
    (tmp_path / "file").touch()
    status, _, err = dpmix("sweep", file, "--output", tmp_path / "file")
    assert status == 2 and "File exists; give another --output" in err
