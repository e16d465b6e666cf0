"""No published file holds a part of a path: a folder's own name can tell a diagnosis."""

import json
import re
import shutil

import numpy as np
import pytest

from dpmix.data.named import public_name
from pictures import write_class_folders

pytestmark = pytest.mark.usefixtures("unchecked")

SECRET = "hiv-positive-2024"
HELD_BACK = {"config.yaml", "diagnostics"}  # docs/runs.md: to read first, and never to publish


@pytest.mark.parametrize("data", [
    SECRET, f"/data/{SECRET}", f"~/{SECRET}", f"{SECRET}/mnist5k", f"./{SECRET}.v2",
    f"{SECRET}.npz", f"a/{SECRET}.npz", f"hf:./{SECRET}", f"hf:/data/{SECRET}", f"hf:~/{SECRET}",
    f"hf:study/scans/{SECRET}", f"hf:../{SECRET}", f"hf:/data/{SECRET}:few",
])  # fmt: skip
def test_a_place_is_called_by_its_kind(data):
    assert SECRET not in public_name(data) and public_name(data).startswith("images in a")


@pytest.fixture
def place(tmp_path):
    """A folder in which everything that a run reads and writes lies under a telling name."""
    rng, place = np.random.default_rng(5), tmp_path / SECRET
    for side, count in (("train", 40), ("test", 10)):
        write_class_folders(place / f"{SECRET}-scans" / side, count, rng)
    write_class_folders(place / f"{SECRET}-pool", 15, np.random.default_rng(99))
    return place


def published(folder):
    """The name and the bytes of every file that may be handed out."""
    for path in sorted(folder.rglob("*")):
        inside = {*path.relative_to(folder).parts}
        if path.is_file() and not inside & HELD_BACK:
            yield path.name, path.read_bytes()


def test_nothing_that_a_run_hands_out_names_where_anything_lay(dpmix, place, tmp_path):
    run, out = place / f"{SECRET}-run", tmp_path / "out"
    settings = (
        "--data", place / f"{SECRET}-scans", "--pool", place / f"{SECRET}-pool",
        "--cache-dir", place / "cache", "--method", "mix-diff", "--k-base", 2, "--k-self", 2,
        "--steps", 1, "--epsilon", 8, "--delta", 1e-3, "--device", "cpu",
        "--model", "cnn-small", "--crop-padding", 2, "--expected-batch-size", 10,
    )  # fmt: skip
    assert dpmix("train", *settings, "--output", run, "--tensorboard")[0] == 0
    out.mkdir()
    report = run / "audit.json"
    assert dpmix("audit", *settings, "--canaries", 20, "--report", report)[0] in (0, 1)
    assert dpmix("report", run)[0] == 0
    # What the other formats hold, test_export.py reads.
    assert dpmix("export", run, "--format", "hub", "--output", out / "hub")[0] == 0
    # Pages name runs by what the user called their folders.
    runs = [shutil.copytree(run, tmp_path / name) for name in ("first", "second")]
    assert dpmix("compare", *runs, "--output", out / "compare.html")[0] == 0
    seen = set()
    for folder in (run, out):
        for name, content in published(folder):
            assert SECRET.encode() not in content, name
            assert not re.search(rb"\d\d:\d\d:\d\d", content), f"{name} tells a time of day"
            seen.add(name)
    assert seen >= {
        "MODEL_CARD.md", "report.html", "compare.html", "privacy.json", "metrics.json",
        "audit.json", "model.safetensors", "README.md",
    }  # fmt: skip
    assert "images in a folder" in (run / "MODEL_CARD.md").read_text()
    assert json.loads(report.read_text())["settings"]["data"]["data"] == "images in a folder"
    status, printed, _ = dpmix("verify", run)
    assert status == 0 and "holds" in printed


def test_results_of_a_sweep_name_no_path(dpmix, place, tmp_path):
    file, out = tmp_path / "small.yaml", tmp_path / "out"
    file.write_text(
        f"title: t\nsettings: {{data: {place}/{SECRET}-scans, model: cnn-small, steps: 1,"
        " k_base: 1, k_self: 1, method: mix-diff, crop_padding: 2, delta: 0.001,"
        f" expected_batch_size: 10, device: cpu}}\nrows: {{near: {{pool: {place}/{SECRET}-pool}}}}"
        "\ngrid: {epsilon: [8]}\n"
    )
    status, printed, err = dpmix("sweep", file, "--output", out, "--jobs", 1)
    assert status == 0, err
    assert SECRET not in printed and SECRET not in (out / "results.csv").read_text()
    assert "images in a folder, cnn-small" in printed


def test_a_run_without_a_folder_of_its_own_is_not_called_by_the_datas(
    dpmix, place, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flags = ("--model", "cnn-small", "--steps", 1, "--k-base", 1, "--k-self", 1,
             "--expected-batch-size", 10, "--crop-padding", 2)  # fmt: skip
    assert dpmix("train", "--data", place / f"{SECRET}-scans", *flags)[0] == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("images-mix-self-")
