"""Thresholds and subgroups as typed: chosen on validation images, stored, used, and shown."""

import csv
import io
import json

import pytest
import torch
import yaml

from dpmix.errors import DpmixError
from dpmix.runs.config import Config
from dpmix.runs.load import SavedRun, load_run
from dpmix.runs.predict import thresholds_for
from dpmix.runs.settings import InputConfig

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")


@pytest.fixture
def trained(dpmix, image_root, tmp_path, flags):
    """A run that is judged on validation images, and its list of subgroups."""
    files = sorted(path.name for path in (image_root / "train" / "disc").iterdir())
    groups = tmp_path / "groups.csv"
    rows = [f"{side}/{label}/{name},{'FM'[int(name[-5]) % 2]}" for name in files[:35]
            for side in ("train", "test") for label in ("disc", "stripes")]  # fmt: skip
    groups.write_text("\n".join(["file,sex", *rows]))
    status, out, err = dpmix(
        "train", "--data", image_root, "--output", tmp_path / "run", *flags,
        "--validation-fraction", 0.5, "--subgroups", groups,
    )  # fmt: skip
    assert status == 0, err
    return tmp_path / "run", out, groups


def test_a_threshold_of_validation_images_is_stored_shown_and_used(
    dpmix, trained, image_root, tmp_path
):
    run, out, _ = trained
    saved = load_run(run, "cpu")
    (stored,) = saved.input.thresholds
    measured = json.loads((run / "metrics.json").read_text())
    assert measured["decisions"]["thresholds"] == [stored]
    assert measured["decisions"]["chosen_here"] is True
    assert "accuracy at the threshold" in out and "chosen on these same images" in out
    assert "the threshold" in (run / "MODEL_CARD.md").read_text()
    assert load_run(run / "model.safetensors", "cpu").input.thresholds == (stored,)
    assert dpmix("verify", run)[0] == 0

    # Of the test images it is what was stored, and not what would be best there.
    _, text, _ = dpmix("evaluate", run, "--data", image_root, "--json")
    found = json.loads(text)
    assert found["decisions"]["thresholds"] == [stored]
    assert found["decisions"]["chosen_here"] is False
    photo = image_root / "test"
    for threshold, flags in ((stored, ()), (0.0, ("--threshold", 0)), (1.0, ("--threshold", 1))):
        status, text, err = dpmix("predict", run, photo, *flags)
        assert (status, err) == (0, "")
        for row in csv.DictReader(io.StringIO(text)):
            sure = float(row["p(stripes)"])
            assert row["prediction"] == ("stripes" if sure >= threshold else "disc"), row
    status, _, err = dpmix("predict", run, photo, "--threshold", 1.5)
    assert status == 2 and "threshold is 1.5; expected a probability, 0 to 1" in err


def test_a_run_that_is_judged_on_test_images_chooses_no_threshold(
    dpmix, image_root, tmp_path, flags
):
    folder = tmp_path / "run"
    assert dpmix("train", "--data", image_root, "--output", folder, *flags)[0] == 0
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["input"]["thresholds"] is None
    assert json.loads((folder / "metrics.json").read_text())["decisions"] is None
    assert json.loads(dpmix("evaluate", folder, "--json")[1])["decisions"] is None


def test_subgroups_are_measured_and_the_worst_is_named(dpmix, trained, image_root, tmp_path):
    run, out, groups = trained
    measured = json.loads((run / "metrics.json").read_text())
    found = measured["subgroups"]["sex"]
    sizes = {value: group["images"] for value, group in found["groups"].items()}
    assert sizes.keys() == {"F", "M"}
    assert sum(sizes.values()) + found["not_listed"] == measured["images"]
    assert "worst group by sex" in out and f"not listed: {found['not_listed']}" in out
    right = sum(
        round(group["overall"]["accuracy"]["value"] * group["images"])
        for group in found["groups"].values()
    )
    assert 0 <= round(measured["accuracy"] * measured["images"]) - right <= found["not_listed"]
    assert str(groups) not in (run / "model.safetensors").read_bytes().decode("latin-1")
    _, text, err = dpmix("evaluate", run, "--data", image_root, "--subgroups", groups)
    assert "sex" in text and "balanced accuracy" in text and err == ""
    status, _, err = dpmix("evaluate", run, "--data", "mnist5k", "--subgroups", groups)
    assert status == 2


def test_subgroups_of_pixels_are_refused_before_anything_is_written(
    dpmix, digits_npz, tmp_path, flags
):
    folder = tmp_path / "run"
    groups = tmp_path / "groups.csv"
    groups.write_text("file,sex\n1.png,F\n")
    status, _, err = dpmix(
        "train", "--data", digits_npz, "--output", folder, *flags, "--subgroups", groups
    )
    assert status == 2 and "images have no file names; expected a folder of images" in err
    assert not folder.exists()


def saved(names, task="single-label", thresholds=None):
    config = Config.load(model="cnn-small", task=task)
    given = InputConfig(image_shape=(1, 8, 8), class_names=names, thresholds=thresholds)
    return SavedRun(torch.nn.Identity(), config, given, None)


def test_which_thresholds_a_model_decides_by():
    three = ("a", "b", "c")
    assert thresholds_for(saved(three), None) is None
    assert thresholds_for(saved(three[:2]), None) is None
    assert thresholds_for(saved(three[:2], thresholds=(0.3,)), None) == (0.3,)
    assert thresholds_for(saved(three[:2], thresholds=(0.3,)), 0.6) == (0.6,)
    assert thresholds_for(saved(three, "multi-label"), None) == (0.5, 0.5, 0.5)
    assert thresholds_for(saved(three, "multi-label"), 0.2) == (0.2, 0.2, 0.2)
    with pytest.raises(DpmixError, match="the model has 3 classes, of which the most probable"):
        thresholds_for(saved(three), 0.5)
