"""Fewer images, fewer classes, validation images and extra augmentations, as typed."""

import json
import re

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("unchecked")

SMALL = ("train", "--data", "mnist5k", "--steps", 2, "--expected-batch-size", 40, "--k-base", 2,
         "--k-self", 2, "--device", "cpu")  # fmt: skip
NARROWED = ("--classes", 4, "--validation-fraction", 0.2, "--train-images", 300)


def test_a_tuning_run_says_validation_wherever_it_said_test(dpmix, tmp_path):
    folder = tmp_path / "run"
    status, out, err = dpmix(*SMALL, *NARROWED, "--output", folder)
    assert (status, err) == (0, "")
    assert "300 training and" in out and "validation images of 4 classes" in out
    assert "validation accuracy" in out and "test accuracy" not in out
    statement = json.loads((folder / "privacy.json").read_text())
    assert statement["examples"] == 300
    assert statement["sampling_rate"] == pytest.approx(40 / 300)
    assert any("validation images, a fixed share" in said for said in statement["assumptions"])
    assert any("chosen by their places" in said for said in statement["assumptions"])
    numbers = json.loads((folder / "metrics.json").read_text())
    assert abs(numbers["images"] - 0.2 * 1600) < 80
    assert list(numbers["class_scores"]) == ["0", "1", "2", "3"]
    assert numbers["judged_on"] == "validation"
    card = (folder / "MODEL_CARD.md").read_text()
    assert f"{numbers['images']} validation images" in card and "test images" not in card
    data = yaml.safe_load((folder / "config.yaml").read_text())["data"]
    assert (data["classes"], data["validation_fraction"], data["train_images"]) == (4, 0.2, 300)
    status, out, _ = dpmix("verify", folder)
    assert status == 0 and "holds" in out

    # `evaluate` measures the same images, and the test split only where it is asked for.
    status, out, _ = dpmix("evaluate", folder)
    assert status == 0
    expected = f"{numbers['accuracy']:.2%} of {numbers['images']} images"
    assert re.search(f"validation accuracy +{re.escape(expected)}", out)
    status, out, err = dpmix("evaluate", folder, "--data", "mnist5k")
    assert (status, err) == (0, "")
    assert "test accuracy" in out and "of 400 images" in out
