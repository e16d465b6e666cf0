"""`dpmix audit` as users run it, on a folder of small images."""

import json

import pytest

from dpmix.audit.audit import audited_facts
from dpmix.privacy.noise import GaussianNoise
from dpmix.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")

SMALL = ["--model", "cnn-small", "--steps", "3", "--expected-batch-size", "8", "--epsilon", "8",
         "--device", "cpu", "--k-base", "2", "--k-self", "2", "--delta", "1e-3"]  # fmt: skip


def test_gradient_canaries_on_a_run_of_ones_own(image_root, dpmix, tmp_path):
    report = tmp_path / "audit.json"
    status, out, _ = dpmix(
        "audit", "--data", str(image_root), *SMALL, "--canaries", "2000", "--runs", "2",
        "--report", str(report),
    )  # fmt: skip
    assert status == 0
    said = json.loads(report.read_text())
    assert 0 < said["two_worlds"] < said["claimed"] and not said["refuted"]
    assert said["canaries"] == 4000
    assert all(one["holds"] and one["tested"] for one in said["invariants"])
    for name in (
        "noise in every step", "independent noise", "draws of examples", "clipped gradients",
        "views of one example", "sum before the noise", "gradients of the optimizer",
        "trained weights", "number of steps", "claimed epsilon",
    ):  # fmt: skip
        assert name in [one["name"] for one in said["invariants"]]
        assert f"{name:26}  as planned: " in out, name
    assert len(said["invariants"]) == 10 and "the claim was not refuted" in out


def test_a_broken_mechanism_ends_with_status_1(image_root, dpmix, monkeypatch):
    whole = GaussianNoise.__init__

    def less(self, plan):
        whole(self, plan)
        self.std /= 4

    monkeypatch.setattr(GaussianNoise, "__init__", less)
    status, out, _ = dpmix("audit", "--data", str(image_root), *SMALL, "--canaries", "2000")
    assert status == 1 and "NOT AS PLANNED" in out and "REFUTED" in out


@pytest.mark.parametrize(("flags", "said"), [
    (["--epsilon", "inf"], "there is no claim to audit"),
    (["--seed", "3"], "No such option: --seed"),
    (["--report", "/nowhere/x.json"], "report '/nowhere/x.json' can't be written"),
    (["--method", "microbatch-mixup"], "can't audit method microbatch-mixup"),
])  # fmt: skip
def test_what_says_nothing_is_refused(image_root, dpmix, flags, said):
    status, _, err = dpmix("audit", "--data", str(image_root), *SMALL, *flags)
    assert status == 2 and said in " ".join(err.split())


def test_a_runs_own_settings_are_audited_from_its_config(image_root, dpmix, tmp_path):
    folder = RunFolder(tmp_path / "run")
    assert dpmix("train", "--data", image_root, *SMALL, "--output", folder.root)[0] == 0
    audit = ("audit", "--config", folder.config, "--report", folder.audit)
    assert dpmix(*audit, "--canaries", 20, "--canary-kind", "pattern")[0] == 0
    assert audited_facts(folder).audit.kind == "pattern"
