"""What numbers of a guarantee, of an audit and of the settings mean, in words."""

import math
import re

import pytest

from dpmix.reports.audit_report import AuditReport, Finding
from dpmix.reports.facts import (
    audit_verdict,
    best_guess,
    meaning,
    pictures_in_words,
    views_in_words,
)
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.views import ViewSpec
from example_facts import facts

AUDIT = {"kind": "gradient", "refuted": False, "claimed": 3.0, "delta": 1e-5, "one_run": 1.0,
         "two_worlds": 1.25, "confidence": 0.95, "canaries": 100, "runs": 1, "plan": {},
         "settings": {}, "written": "2026-01-02", "dpmix": "0.1.0"}  # fmt: skip


def verdict(**changes):
    return audit_verdict(AuditReport(**AUDIT | changes))


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


def test_verdicts():
    assert (
        "Not refuted: the strongest attack shows an epsilon of at least 1.250 at 95 %" in verdict()
    )
    assert "little power" not in verdict()
    assert "little power" in verdict(two_worlds=None, one_run=0.1)
    assert "epsilon is at least 3.500" in verdict(refuted=True, two_worlds=3.5)
    broken = (Finding(name="noise in every step", holds=False, found="half"),)
    assert "(noise in every step)" in verdict(refuted=True, invariants=broken)


@pytest.mark.parametrize(("spec", "words"), [
    (ViewSpec("none"), "the image as it is"),
    (ViewSpec("self-aug", k_base=8, extra_augment="blur"), "8 self-augmentations, each after blur"),
    (ViewSpec("mix-diff"), "16 self-augmentations, 2 public images, 18 mixtures"),
    (ViewSpec("mix-self", average="mixed-only"),
     "16 self-augmentations, 18 mixtures; only the mixtures are averaged"),
])  # fmt: skip
def test_every_kind_of_view_is_counted(spec, words):
    assert views_in_words(spec) == words


@pytest.mark.parametrize("settings", [
    {"method": "none"}, {"pool_role": "pretrain"}, {"method": "mix-diff", "pool_role": "extra"},
    {"flip": None, "crop_padding": 1, "extra_augment": "cutout"},
])  # fmt: skip
def test_the_views_of_a_run_are_those_of_its_settings(settings):
    run = facts(**settings)
    assert run.views == Config.model_validate(run.settings).view_spec(flip=False)


HASHED = "each by the hash of its"


@pytest.mark.filterwarnings("ignore:data folder")
@pytest.mark.parametrize(("changes", "part", "words"), [
    ({}, "", "12x12 as stored, grey as stored, mirrored at random (--no-flip turns that off); "
     "test images: the test folder"),
    ({"image_size": 8, "channels": 3, "flip": False}, "",
     "resized to 8x8 (padded with their own border where a cut would lose more than a tenth), "
     "converted to RGB, not mirrored; "),
    ({"test_fraction": 0.29}, "train", f"test images: 29% of the files, {HASHED} path"),
    ({"validation_fraction": 0.25}, "", f"validation images: 25% of the training images, {HASHED}"),
    ({"data": "mnist5k", "flip": None}, "", "28x28 as stored, grey as stored, not mirrored; "),
])  # fmt: skip
def test_the_line_says_size_fit_colours_mirroring_and_what_is_held_out(
    image_root, tmp_path, quick, changes, part, words
):
    leaves = quick | {"data": str(image_root / part), "output": str(tmp_path / "run")} | changes
    parts = build_run(Config.load(**leaves), trial=True)
    settings = parts.config.model_dump(mode="json")
    line = pictures_in_words(settings, parts.splits, parts.views.spec)
    assert words in line and not re.search(re.escape(str(image_root)), line)
