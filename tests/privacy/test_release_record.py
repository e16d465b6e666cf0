"""Reports of earlier releases, read back."""

import json

import pytest

from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_gaussian
from dpmix.privacy.prior_releases import read_spent

RECORD = {
    "what": "gap check", "written": "2026-01-01T00:00:00", "noise_multiplier": 12.5,
    "epsilon": epsilon_gaussian(12.5, 1e-6), "delta": 1e-6,
    "neighbouring_relation": "add or remove one training example",
}  # fmt: skip


@pytest.fixture
def report(tmp_path):
    def write(name="gap.json", **changes):
        path = tmp_path / name
        path.write_text(json.dumps({"advice": "use", "release": RECORD | changes}))
        return str(path)

    return write


def test_noise_multipliers_come_in_the_order_given(report):
    paths = (
        report("b.json", noise_multiplier=3.0, epsilon=epsilon_gaussian(3.0, 1e-6)),
        report("a.json"),
    )
    assert read_spent(paths) == (3.0, 12.5)
    assert read_spent(()) == ()


def test_one_release_counts_once(report):
    with pytest.raises(DpmixError, match=r"names one release twice \('.*copy.json'\)"):
        read_spent((report(), report("copy.json")))


@pytest.mark.parametrize("sigma", [0, -1.0, 1e-6, 0.02, float("inf"), float("nan"), "x", None])
def test_a_noise_multiplier_that_means_nothing_is_refused(report, sigma):
    with pytest.raises(DpmixError, match="records no private release"):
        read_spent((report(noise_multiplier=sigma),))


@pytest.mark.parametrize(
    "edit",
    [{"noise_multiplier": 1e6}, {"epsilon": 0.01}, {"delta": 1e-2}, {"delta": 0},
     {"neighbouring_relation": "replace one example"}],
)  # fmt: skip
def test_a_report_that_was_edited_in_one_place_is_refused(report, edit):
    with pytest.raises(DpmixError, match="or was edited"):
        read_spent((report(**edit),))


@pytest.mark.parametrize("text", ["", "{}", '{"release": null}', "[1]", "\xff"])
def test_what_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "gap.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(
        DpmixError, match="records no private release, or was edited; expected the record"
    ):
        read_spent((str(tmp_path / "gap.json"),))


def test_a_report_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DpmixError, match=r"cannot read .*gone"):
        read_spent((str(tmp_path / "gone.json"),))
