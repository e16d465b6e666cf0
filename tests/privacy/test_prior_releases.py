"""Reports of earlier releases, read back."""

import json

import pytest

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian
from dpmix.privacy.prior_releases import read_prior_releases

RECORD = {
    "what": "noisy count", "written": "2026-01-01T00:00:00", "noise_multiplier": 12.5,
    "epsilon": epsilon_gaussian(12.5, 1e-6), "delta": 1e-6,
    "neighbouring_relation": "add or remove one training example",
}  # fmt: skip


@pytest.fixture
def report(tmp_path):
    def write(name="count.json", **changes):
        path = tmp_path / name
        path.write_text(json.dumps({"advice": "use", "release": RECORD | changes}))
        return str(path)

    return write


def test_noise_multipliers_come_in_the_order_given(report):
    other = {"noise_multiplier": 3.0, "epsilon": epsilon_gaussian(3.0, 1e-6)}
    assert read_prior_releases((report("b.json", **other), report("a.json")), "image") == (
        3.0,
        12.5,
    )
    assert read_prior_releases((), "image") == ()


def test_one_release_counts_once(report):
    with pytest.raises(DpmixError, match=r"copy.json' records a release that is given twice"):
        read_prior_releases((report(), report("copy.json")), "image")


@pytest.mark.parametrize("edit", [
    *({"noise_multiplier": sigma} for sigma in (0.02, float("inf"), float("nan"), 1e6)),
    {"epsilon": 0.01}, {"delta": 0}, {"neighbouring_relation": "replace one example"},
])  # fmt: skip
def test_an_impossible_or_edited_record_is_refused(report, edit):
    with pytest.raises(DpmixError, match="records no private release, or was edited"):
        read_prior_releases((report(**edit),), "image")


def test_a_file_without_a_record_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "count.json").write_text('{"release": null}')
    with pytest.raises(DpmixError, match="or was edited; expected a JSON report"):
        read_prior_releases((str(tmp_path / "count.json"),), "image")
    with pytest.raises(DpmixError, match=r"cannot read .*gone"):
        read_prior_releases((str(tmp_path / "gone.json"),), "image")
