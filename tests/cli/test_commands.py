"""The commands as typed: what they print, their exit status, and errors without a traceback."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
from PIL import Image

from dpmix.errors import DISTRIBUTION
from dpmix.runs.settings import LEAVES
from dpmix.training.trainer import PrivateTrainer

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")


@pytest.fixture
def trained(dpmix, image_root, tmp_path, flags):
    folder = tmp_path / "run"
    status, out, err = dpmix("train", "--data", image_root, "--output", folder, *flags)
    assert (status, err) == (0, ""), err
    return folder, out


def test_the_help_names_every_command_and_setting(dpmix):
    assert dpmix("--version") == (0, f"dpmix {metadata.version(DISTRIBUTION)}\n", "")
    _, out, _ = dpmix()
    for name in ("train", "evaluate", "predict", "calibrate", "export", "synthesize", "pool"):
        assert name in out
    _, out, _ = dpmix("train", "--help")
    for setting in LEAVES.keys() - {"expected_runs"}:  # a selection's own
        flag = (
            setting.replace("_", "-")
            .replace("releases", "release")
            .replace("lates", "late")
            .replace("columns", "column")
        )
        assert f"--{flag} " in out


def test_train_ends_with_the_table(trained):
    folder, out = trained
    for said in ("test accuracy", "worst class", "epsilon 2.000", "delta 0.001", "sigma", "q 0.125",
                 "steps", "mix-self", str(folder)):  # fmt: skip
        assert said in out
    assert "\x1b" not in out, "no bar and no colour where the output is no terminal"


def test_calibrate_shows_what_a_test_can_find(dpmix):
    flags = ("--n", 4000, "--expected-batch-size", 400, "--steps", 50, "--epsilon", 3)
    status, out, err = dpmix("calibrate", *flags, "--sigma", 3.3, "--images-per-person", 2)
    assert status == 0, err
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines()]
    mu, some = [row for row in rows if len(row) == 8]
    # As docs/choosing.md and docs/limits.md state them.
    assert some[0] == "1.3505" and some[3:7] == ["61.25 %", "4.56 %", "0.77 %", "-"]
    assert mu[0] == "3.3000" and 0.2 < float(mu[6]) < 0.3 and float(mu[7]) > float(mu[1])


def test_dry_run_prints_plan_size_and_time_and_writes_nothing(dpmix, image_root, tmp_path, flags):
    status, out, err = dpmix("train", "--data", image_root, "--output", tmp_path / "r", *flags,
                             "--dry-run")  # fmt: skip
    assert status == 0, err
    for said in (
        "epsilon 2.000", "80 training and 20 test images of 2 classes", "mirrored at random",
        "crop padding 2", "SGD, learning rate ", "10 clipped gradients x 4 views", "s a step",
    ):  # fmt: skip
        assert said in out
    assert not (tmp_path / "r").exists()


def test_evaluate_measures_the_same_accuracy(dpmix, trained, image_root):
    folder, _ = trained
    measured = json.loads((folder / "metrics.json").read_text())
    status, out, _ = dpmix("evaluate", folder, "--json")
    assert status == 0
    assert json.loads(out)["accuracy"] == measured["accuracy"]
    assert measured["images"] == 20
    status, out, _ = dpmix("evaluate", folder, "--data", image_root)
    assert status == 0 and f"{measured['accuracy']:.2%} of 20 images" in out


def test_predict_writes_csv_and_json_that_agree(dpmix, trained, image_root, tmp_path):
    folder, _ = trained
    status, out, _ = dpmix("predict", folder, image_root / "test")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0 and len(rows) == 20
    assert sum(float(rows[0][f"p({name})"]) for name in ("disc", "stripes")) == pytest.approx(
        1, abs=3e-6
    )
    call = ("predict", folder, image_root / "test", "--output", tmp_path / "p.json")
    status, out, _ = dpmix(*call)
    assert status == 0 and "20 predictions" in out
    status, _, err = dpmix(*call)
    assert status == 2 and "exists; give another --output" in err
    assert dpmix(*call, "--overwrite")[0] == 0
    written = json.loads((tmp_path / "p.json").read_text())
    assert [row["prediction"] for row in written] == [row["prediction"] for row in rows]
    assert (
        max(written[0]["probabilities"], key=written[0]["probabilities"].get)
        == (written[0]["prediction"])
    )


NAMES = [b"caf\xe9.png", b"a\nb.png", b"\x1b[31m.png", "caf\u00e9\u202f\\x.png".encode()]


def test_predict_writes_any_name_and_it_can_be_read_back(dpmix, trained, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in NAMES:
        Image.new("L", (12, 12)).save(photos / os.fsdecode(name))
    status, _, err = dpmix("predict", trained[0], photos, "--output", tmp_path / "p.csv")
    assert status == 0, err
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    read = {os.fsencode(_path_of(row["image"]).name) for row in rows}
    assert read == set(NAMES)
    assert str(photos / "caf\u00e9\u202f\\x.png") in {row["image"] for row in rows}


def _path_of(written):
    """As docs/using.md says."""
    uri = written.startswith("file://")
    return Path(os.fsdecode(unquote_to_bytes(written.removeprefix("file://"))) if uri else written)


MISTAKES = [
    (["train", "--method", "mixself"], "did you mean 'mix-self'"),
    (["train", "--data", "no/such/folder"], "no folder or .npz file 'no/such/folder'"),
    (["train", "--epsilon", "0"], "epsilon is 0; expected above 0"),
    (["train", "--lora-rank", "2"], "lora_rank is 2, which --model cnn-small has no use for"),
    (["train", "--pool", "x", "--method", "mix-diff"], "no public pool 'x'"),
    (["train", "--prior-release", "gap.json"], "cannot read 'gap.json'"),
    (["train", "--crop-padding", "28"], "crop_padding is 28 but the images are 28x28"),
    (["train", "--device", "tpu9"], "device 'tpu9' cannot be used"),
    (["train", "--optimizer-options", "nesterov"], "optimizer_options"),
    (["trian"], "No such command 'trian'. Did you mean 'train'?"),
    (
        ["train", "--epsilonn", "3"],
        "No such option: --epsilonn (Possible options: --epsilon, --persons)",
    ),
    (["train", "--data", r"no/a:x:b/\[/c]/d"], r"no folder or .npz file 'no/a:x:b/\[/c]/d'"),
    (["predict", "nowhere", "x.png"], "is no run folder"),
    (["predict", "nowhere", "x.png", "--output", "p.txt"], "ending in .csv or .json"),
    (["calibrate", "--n", "10", "--expected-batch-size", "20", "--steps", "1"], "at most 10"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda v: str(v)[:40])
def test_a_mistake_is_a_line_and_status_2(dpmix, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = dpmix(*arguments)
    assert status == 2
    assert err.startswith("error: ") and message in err
    assert len(err.strip().splitlines()) <= 2
    assert not any(tmp_path.iterdir())


def test_the_installed_command_and_the_module_exit_with_2():
    for command in (["-m", "dpmix"], ["-c", "from dpmix.cli import main; main()"]):
        done = subprocess.run(
            [sys.executable, *command, "train", "--method", "x"], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr and done.stderr.startswith("error: method is 'x'")


def test_a_stopped_run_says_which_epsilon_holds(dpmix, image_root, tmp_path, flags, monkeypatch):
    step, made = PrivateTrainer.step, []

    def stop(trainer):
        made.append(1)
        if len(made) == 3:
            raise KeyboardInterrupt
        return step(trainer)

    monkeypatch.setattr(PrivateTrainer, "step", stop)
    call = ("--data", image_root, "--output", tmp_path / "r", *flags, "--steps", "4")
    status, out, _ = dpmix("train", *call, "--eval-every", "1")
    assert status == 130 and "to resume after step 2: dpmix train --resume" in out
    assert "epsilon 2.000 covers what it has published and the rest of its steps" in out


def test_an_interrupted_run_says_where_its_model_is(image_root, tmp_path, flags):
    """A real SIGINT, once the first model is there."""
    run = [sys.executable, "-m", "dpmix", "train", "--data", str(image_root), "--output",
           str(tmp_path / "r"), *map(str, flags), "--steps", "100000", "--eval-every", "1",
           "--epsilon", "inf"]  # fmt: skip
    process = subprocess.Popen(
        run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # A shell's background jobs ignore the signal, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        while not (tmp_path / "r" / "MODEL_CARD.md").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err.strip() == "interrupted"
    assert not list((tmp_path / "r").glob(".*.part"))
