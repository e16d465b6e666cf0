"""What numbers of a guarantee, of an audit and of the settings mean, in words."""

import math
import re

import pytest

from dpmix.reports.facts import (
    best_guess,
    meaning,
    pictures_in_words,
)
from dpmix.runs.build import build_run
from dpmix.runs.config import Config


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.0), (0.5, 1e-5), (3.0, 1e-2), (8.0, 1e-6)])
def test_no_pair_of_error_rates_that_the_guarantee_allows_is_better(epsilon, delta):
    grown = math.exp(epsilon)
    allowed = [
        1 - (fpr + max(1 - delta - grown * fpr, (1 - delta - fpr) / grown, 0)) / 2
        for fpr in (index / 2000 for index in range(2001))
    ]
    assert max(allowed) <= best_guess(epsilon, delta) + 1e-12
    assert max(allowed) == pytest.approx(best_guess(epsilon, delta), abs=1e-3)


@pytest.mark.parametrize(("epsilon", "share"), [
    (3.0, "95.26"), (1.0, "73.11"), (8.0, "99.97"), (math.inf, "100"),  # 73.106..., 99.966...
])  # fmt: skip
def test_the_sentence_rounds_up(epsilon, share):
    assert f"at most {share} %" in meaning(epsilon, 1e-5)


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
