"""`dpmix train --balance` from the command line: train, stop, resume and verify."""

import pytest

from dpmix.reports.files import ModelFile

pytestmark = pytest.mark.usefixtures("unchecked")

QUICK = ("--model", "cnn-small", "--method", "self-aug", "--k-base", 2, "--steps", 4,
         "--expected-batch-size", 10, "--epsilon", 2, "--delta", 1e-3)  # fmt: skip


@pytest.fixture
def prevalence(tmp_path):
    path = tmp_path / "prevalence.csv"
    path.write_text("class,prevalence\ndisc,80\nstripes,20\n")
    return path


def test_public_prevalences_weigh_the_classes_and_verify_holds(
    dpmix, image_root, tmp_path, prevalence, monkeypatch
):
    monkeypatch.setattr("dpmix.runs.balance.LEAST", 0.0)  # there are few images
    out = tmp_path / "run"
    status, text, error = dpmix(
        "train", "--data", image_root, *QUICK, "--output", out, "--balance", "weights",
        "--class-prevalence", prevalence,
    )  # fmt: skip
    assert status == 0, error
    assert "weights by public prevalences: disc 80.0% x 0.25, stripes 20.0% x 1" in text
    assert dpmix("verify", out)[0] == 0


def test_a_paid_count_is_shown_once_it_is_written_and_a_resumed_run_keeps_it(
    dpmix, image_root, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    train = ("train", "--data", image_root, *QUICK, "--output", out, "--checkpoint-every", 1,
             "--eval-every", 2, "--class-prevalence", "private", "--spend", 0.5)  # fmt: skip
    status, text, _ = dpmix(*train, "--dry-run")
    assert status == 0 and "which a dry run does not make" in " ".join(text.split())
    stopped = iter(range(10))

    def ended(*_):
        if next(stopped) == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dpmix.runs.record.RunRecord.log", ended)
        assert dpmix(*train)[0] == 130
    status, text, error = dpmix("train", "--resume", out)
    assert status == 0, error
    statement = ModelFile(out / "model.safetensors").statement
    assert statement.complete and len(statement.spent_before) == 1
    assert "by a private count, epsilon 0.5, included in epsilon" in " ".join(text.split())
    assert "1, included in epsilon" in text  # among the prior releases
    assert dpmix("verify", out)[0] == 0
