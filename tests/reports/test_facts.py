"""What numbers of a guarantee, of an audit and of the settings mean, in words."""

import math
import re

import pytest

from dpmix.reports.facts import found_in_words, meaning, pictures_in_words
from dpmix.reports.statement import Membership
from dpmix.runs.build import build_run
from dpmix.runs.config import Config

FOUND = Membership(
    found_at_1_percent=0.045501, found_at_0_1_percent=0.0076, best_guess=0.612401, mu=None,
    mu_gap=None,
)  # fmt: skip


@pytest.mark.parametrize(("unit", "named"), [
    ("image", "every other training image, and guesses at even odds whether one given image"),
    ("person", "all images of every other person, and guesses at even odds whether one given pers"),
])  # fmt: skip
def test_the_sentences_round_up_and_name_the_unit(unit, named):
    told = meaning(FOUND, unit)
    assert named in told and "right at most 61.25 % of" in told
    assert "in at most 4.56 % of those" in told
    assert found_in_words(FOUND) == "4.56 % at 1 % false positives, 0.76 % at 0.1 %"


HASHED = "each by the hash of its"


@pytest.mark.filterwarnings("ignore:data folder")
@pytest.mark.parametrize(("changes", "words"), [
    ({}, "12x12 as stored, grey as stored, mirrored at random (--no-flip turns that off); "
     "test images: the test folder"),
    ({"image_size": 8, "channels": 3, "flip": False},
     "resized to 8x8 (padded with their own border where a cut would lose more than a tenth), "
     "converted to RGB, not mirrored; "),
    ({"validation_fraction": 0.25}, f"validation images: 25% of the training images, {HASHED}"),
])  # fmt: skip
def test_the_line_says_size_fit_colours_mirroring_and_what_is_held_out(
    image_root, tmp_path, quick, changes, words
):
    leaves = quick | {"epsilon": math.inf, "data": str(image_root)} | changes
    leaves["output"] = str(tmp_path / "run")
    parts = build_run(Config.load(**leaves), trial=True)
    settings = parts.config.model_dump(mode="json")
    line = pictures_in_words(settings, parts.splits, parts.views.spec)
    assert words in line and not re.search(re.escape(str(image_root)), line)
