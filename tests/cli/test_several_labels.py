"""Several labels an image, as typed: train, resume, evaluate, predict, verify, audit and export."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dpmix.data import decode_files
from dpmix.runs.export import HubClassifier

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")


@pytest.fixture
def scans(tmp_path):
    """60 grey pictures whose left and right half are bright or dark: two labels each."""
    rng, rows, groups = np.random.default_rng(0), ["file,left,right"], ["file,site"]
    for side, count in (("train", 40), ("test", 20)):
        (tmp_path / "scans" / side).mkdir(parents=True)
        for number in range(count):
            left, right = number % 2, number // 2 % 2
            pixels = rng.integers(0, 90, (12, 12)).astype(np.uint8)
            pixels[:, :6] += np.uint8(150 * left)
            pixels[:, 6:] += np.uint8(150 * right)
            name = f"{side}/{number}.png"
            Image.fromarray(pixels).save(tmp_path / "scans" / name)
            rows.append(f"{name},{left},{'' if number % 5 == 0 else right}")
            groups.append(f"{name},{'AB'[number % 3 == 0]}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    (tmp_path / "sites.csv").write_text("\n".join(groups))
    return tmp_path / "scans"


def settings(scans):
    root = scans.parent
    return ("--data", scans, "--task", "multi-label", "--labels", root / "labels.csv", "--seed", 1,
            "--device", "cpu", "--cache-dir", root / "cache", "--delta", 1e-3)  # fmt: skip


@pytest.mark.parametrize("more", [
    ("--model", "cnn-small", "--epsilon", 200, "--steps", 30, "--k-base", 2, "--no-flip"),
    ("--backbone", "scatternet", "--backbone-size", 16, "--method", "mix-self", "--no-flip",
     "--k-base", 2, "--k-self", 2, "--epsilon", 100, "--steps", 20),
    ("--no-public-weights", "--backbone-size", 16, "--no-flip", "--k-base", 2, "--epsilon", 200,
     "--steps", 30),
])  # fmt: skip
def test_a_run_from_its_files_to_its_answers(dpmix, scans, tmp_path, more):
    run, options = tmp_path / "run", settings(scans)
    listed = ("--subgroups", scans.parent / "sites.csv")
    status, out, err = dpmix("train", *options, *more, *listed, "--output", run)
    assert (status, err) == (0, "")
    assert "40 training and 20 test images with 2 labels each" in out
    assert "test mean AUROC" in out and "worst group by site" in out
    measured = json.loads((run / "metrics.json").read_text())
    assert measured["measure"] == "mean AUROC" and measured["score"] > 0.9
    assert dpmix("verify", run)[0] == 0

    status, out, _ = dpmix("evaluate", run, "--json")
    assert json.loads(out)["score"] == pytest.approx(measured["score"], abs=0.02)
    moved = (scans.parent / "labels.csv").rename(tmp_path / "moved.csv")
    status, _, err = dpmix("evaluate", run)
    assert status == 2 and "cannot be read" in err
    status, _, _ = dpmix("evaluate", run, "--data", scans / "test", "--labels", moved)
    assert status == 2  # the list names training images, which are not there
    other = dpmix("evaluate", run, "--data", scans, "--labels", moved, "--json")
    assert (other[0], json.loads(other[1])["score"]) == (0, json.loads(out)["score"])
    files = [scans / "test" / f"{i}.png" for i in range(4)]
    rows = list(csv.DictReader(io.StringIO(dpmix("predict", run, *files)[1])))
    assert [*rows[0]] == ["image", "prediction", "p(left)", "p(right)"]
    shown = np.array([[float(row["p(left)"]), float(row["p(right)"])] for row in rows])
    for row, found in zip(rows, shown, strict=True):
        names = [name for name, p in zip(("left", "right"), found, strict=True) if p >= 0.5]
        assert row["prediction"] == ";".join(names)

    assert dpmix("export", run, "--format", "hub", "--output", tmp_path / "hub")[0] == 0
    model = HubClassifier.from_pretrained(tmp_path / "hub")
    (pictures,) = decode_files(files, model.image_shape)
    with torch.inference_mode():
        assert np.allclose(model.probabilities(pictures).numpy(), shown, atol=1e-4)


def test_a_stopped_run_is_resumed_and_other_labels_are_refused(dpmix, scans, tmp_path):
    more = ("--model", "cnn-small", "--epsilon", 50, "--k-base", 1, "--steps", 6,
            "--checkpoint-every", 2, "--eval-every", 2)  # fmt: skip
    run = tmp_path / "run"
    assert dpmix("train", *settings(scans), *more, "--output", run)[0] == 0
    labels = scans.parent / "labels.csv"
    text = labels.read_text()
    status, out, _ = dpmix("train", "--resume", run)
    assert status == 0 and "nothing left to do" in out
    labels.write_text(text.replace("train/3.png,1,1", "train/3.png,0,1"))
    status, _, err = dpmix("train", *settings(scans), *more, "--output", run)
    assert status == 2 and "is not empty" in err


def test_an_audit_runs(dpmix, scans, tmp_path):
    more = ("--model", "cnn-small", "--epsilon", 50, "--k-base", 1, "--steps", 2)
    run = tmp_path / "run"
    unseeded = [one for one in settings(scans) if one not in ("--seed", 1)]
    assert dpmix("train", *unseeded, *more, "--output", run)[0] == 0
    for kind in ("gradient", "pattern"):
        status, out, err = dpmix(
            "audit",
            "--config",
            run / "config.yaml",
            "--canary-kind",
            kind,
            "--canaries",
            20,
            "--runs",
            1,
        )
        assert (status, err) == (0, ""), out + err
        assert "REFUTED" not in out


def test_a_smoke_run_and_starts_that_choose_one_class(dpmix, scans):
    status, out, err = dpmix("train", *settings(scans), "--model", "cnn-small", "--smoke")
    assert (status, err) == (0, "") and "it works" in out
    for flags, message in (
        (
            ("--head-start", "pool", "--pool", scans),
            "head_start pool makes a head that chooses one",
        ),
        (("--pool-role", "pretrain", "--pool", scans), "pool_role pretrain trains a network that"),
        (("--labels", scans / "none.csv"), "cannot be read"),
    ):
        status, _, err = dpmix("train", *settings(scans), "--backbone", "scatternet", *flags)
        assert status == 2 and message in err, err
