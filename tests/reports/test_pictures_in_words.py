"""One line says what happens to the pictures."""

import re

import pytest

from dpmix.reports.model_card import pictures_in_words
from dpmix.runs.build import build_run
from dpmix.runs.config import Config

FITTED = "padded with their own border where a cut would lose more than a tenth"
HASHED = "each by the hash of its"


@pytest.mark.filterwarnings("ignore:data folder")
@pytest.mark.parametrize(
    ("changes", "part", "said"),
    [
        ({}, "", "12x12 as stored, grey as stored, mirrored at random (--no-flip turns that off); "
         "test images: the test folder"),
        ({"image_size": 8, "channels": 3, "flip": False}, "",
         f"resized to 8x8 ({FITTED}), converted to RGB, not mirrored; "
         "test images: the test folder"),
        ({"method": "none"}, "", "not mirrored"),
        ({}, "train", f"test images: 20% of the files, {HASHED} path"),
        ({"test_fraction": 0.29}, "train", f"test images: 29% of the files, {HASHED} path"),
        ({"validation_fraction": 0.25}, "",
         f"validation images: 25% of the training images, {HASHED} place"),
        ({"data": "mnist5k", "flip": None}, "", "28x28 as stored, grey as stored, not mirrored; "),
    ],
)  # fmt: skip
def test_the_line_says_size_fit_colours_mirroring_and_what_is_held_out(
    image_root, tmp_path, quick, changes, part, said
):
    leaves = quick | {"data": str(image_root / part), "output": str(tmp_path / "run")} | changes
    parts = build_run(Config.load(**leaves), trial=True)
    line = pictures_in_words(parts.config, parts.splits, parts.views.spec)
    assert said in line
    assert not re.search(re.escape(str(image_root)), line)
