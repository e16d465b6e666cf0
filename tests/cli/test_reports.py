"""`dpmix report` and `dpmix compare` as users run them, on runs of small images."""

import pytest

from example_facts import write_run

pytestmark = pytest.mark.usefixtures("unchecked")


def test_a_page_gains_an_audit_that_was_made_after_the_run(dpmix, image_root, tmp_path, flags):
    run = tmp_path / "run"
    status, _, err = dpmix(
        "train", "--data", image_root, "--output", run, *flags, "--engine", "examplewise"
    )
    assert (status, err) == (0, "")
    before = (run / "report.html").read_text()
    status, out, _ = dpmix("report", run)
    assert status == 0 and "none: there is no audit.json" in out
    (run / "report.html").unlink()
    assert dpmix("report", run)[0] == 0
    assert (run / "report.html").read_text() == before, "the page is a function of the files"
    call = ("audit", "--config", run / "config.yaml", "--canaries", "200")
    status, _, err = dpmix(*call, "--report", run / "audit.json")
    assert (status, err) == (0, "")
    status, out, _ = dpmix("report", run)
    assert status == 0 and "Not refuted" in out
    page = (run / "report.html").read_text()
    assert "Audit of these settings" in page and "Audit of" not in before
    assert "did not refute the claim" in dpmix("verify", run)[1]


def test_runs_side_by_side(dpmix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [write_run(tmp_path / "one"), write_run(tmp_path / "two", method="self-aug", run_id="b")]
    status, out, err = dpmix("compare", *runs)
    assert (status, err) == (0, "")
    assert "self-aug" in out and "all together" in out and "settings that differ  method" in out
    page = (tmp_path / "compare.html").read_text()
    assert "2 runs side by side" in page and str(tmp_path) not in page
    status, _, _ = dpmix("compare", *runs, "--output", tmp_path / "other.html")
    assert status == 0 and (tmp_path / "other.html").read_text() == page


@pytest.mark.parametrize(("call", "said"), [
    (["report", "."], "'.' is no run folder: it has no privacy.json"),
    (["compare", ".", "."], "each given once"),
])  # fmt: skip
def test_what_is_no_run_is_refused(dpmix, tmp_path, monkeypatch, call, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = dpmix(*call)
    assert status == 2 and said in " ".join(err.split())
    assert not list(tmp_path.iterdir())
