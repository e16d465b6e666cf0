"""`dpmix pool score`: a noisy count, its report, and the run that counts it."""

import json

import pytest

from pictures import CLASSES

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def call(image_root, public_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--data", image_root, "--backbone", "scatternet"]


def test_a_score_is_reported_with_its_cost_and_counted_by_a_run(dpmix, call, public_root, tmp_path):
    status, out, err = dpmix("pool", "score", public_root, *call, "--spend", 2, "--delta", 1e-3)
    assert (status, err) == (0, ""), err
    assert "--head-start pool" in out and "by guessing  50.0%" in out
    assert all(name in out for name in CLASSES)
    report = json.loads((tmp_path / "public-score.json").read_text())
    assert report["release"]["epsilon"] == pytest.approx(2, rel=1e-3)
    assert sum(map(sum, report["counts"])) == pytest.approx(80, abs=30)
    assert sum(row[0] for row in report["counts"]) > 60
    status, out, err = dpmix(
        "train", *call, "--prior-release", "public-score.json", "--epsilon", 4, "--dry-run"
    )
    assert status == 0 and "prior releases" in out and "1, included in epsilon" in out


def test_nothing_is_spent_on_a_score_that_would_say_nothing(dpmix, call, public_root, tmp_path):
    status, _, err = dpmix("pool", "score", public_root, *call)
    assert status == 2 and "80 images, 2 classes" in err and "give --spend 0." in err
    assert not (tmp_path / "public-score.json").exists()


def test_an_earlier_report_is_never_replaced(dpmix, call, public_root, tmp_path):
    (tmp_path / "public-score.json").write_text("{}")
    status, _, err = dpmix("pool", "score", public_root, *call, "--spend", 2)
    assert status == 2 and "stays counted; give another --output" in err
    assert (tmp_path / "public-score.json").read_text() == "{}"
