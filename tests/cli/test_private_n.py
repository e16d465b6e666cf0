"""With --sampling-rate N is private: nothing that is printed or published tells it."""

import re
import shutil

import numpy as np
import pytest

from dpmix.errors import DpmixError
from dpmix.training.feature_cache import example_rng
from pictures import draw

pytestmark = pytest.mark.usefixtures("unchecked")

N, VIEWS = 1237, 3
SCRATCH = ("--model", "cnn-small", "--crop-padding", 2)
HEAD = ("--backbone", "scatternet", "--backbone-size", 16, "--cache-views", VIEWS)
# N, all views of them, all images, the last one's number.
TELLING = {str(number) for number in (N, N * VIEWS, N + 16, N - 1)}


@pytest.fixture
def data(tmp_path):
    """N training images and 16 test images of two classes."""
    rng = np.random.default_rng(6)

    def split(count):
        labels = np.arange(count) % 2
        return np.stack([draw(label, rng) for label in labels]), labels

    (x_train, y_train), (x_test, y_test) = split(N), split(16)
    path = tmp_path / "scans.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def train(dpmix, data, tmp_path, monkeypatch):
    """Run `dpmix train` with a private N, in a terminal, so that the bars show too."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    given = ("--data", data, "--sampling-rate", 0.01, "--denominator", 12, "--steps", 2,
             "--method", "self-aug", "--k-base", 2, "--epsilon", 2, "--device", "cpu",
             "--cache-dir", tmp_path / "features")  # fmt: skip

    def call(*flags, command="train"):
        status, out, err = dpmix(command, *given, *flags)
        return status, re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out + err)

    return call


def told(text):
    """What of N stands in a text, as a number by itself, with or without commas."""
    numbers = re.findall(r"(?<![\w.])[\d,]+(?:\.\d+)?(?![\w])", text)
    return {number.replace(",", "") for number in numbers} & TELLING


def published(folder):
    """The text of every file of a run but its private ones."""
    for path in folder.rglob("*"):
        if path.is_file() and "diagnostics" not in path.parts:
            yield path, path.read_bytes().decode(errors="replace")


@pytest.mark.parametrize("model", [SCRATCH, HEAD], ids=["scratch", "head"])
def test_no_run_prints_or_publishes_n(train, tmp_path, model):
    status, printed = train(*model, "--dry-run")
    assert (status, told(printed)) == (0, set()), printed
    assert "training images (N is private) and 16 test images" in printed
    # Nor by the size of the cache or the time to make it.
    assert " GB" not in printed and "to make" not in printed
    run = tmp_path / "run"
    status, printed = train(*model, "--output", run, "--tensorboard")
    assert (status, told(printed)) == (0, set()), printed
    assert "100%" in printed if model is HEAD else "2/2" in printed, "the bars are there"
    for path, text in published(run):
        assert not told(text), path


def test_a_run_that_is_resumed_with_half_a_cache_does_not_tell_it(
    train, dpmix, tmp_path, monkeypatch
):
    run, calls = tmp_path / "run", []

    class StoppedError(DpmixError):
        pass

    def stopping(*example):
        calls.append(1)
        if len(calls) > 500:
            raise StoppedError("stopped")
        return example_rng(*example)

    with monkeypatch.context() as patch:
        patch.setattr("dpmix.training.feature_cache.example_rng", stopping)
        status, printed = train(*HEAD, "--output", run)
    assert status == 2 and not told(printed), printed
    status, out, err = dpmix("train", "--resume", run)
    assert status == 0 and not told(out + err), out


@pytest.mark.slow
def test_an_audit_does_not_tell_it(train, tmp_path):
    report = tmp_path / "audit.json"
    flags = (*HEAD, "--canaries", 20, "--report", report)
    status, printed = train(*flags, command="audit")
    assert status in (0, 1) and "canaries" in printed and not told(printed + report.read_text())


def test_no_error_tells_it(train):
    status, printed = train(*SCRATCH, "--validation-fraction", 0.5, "--train-images", 5000)
    assert status == 2 and "train_images is 5000" in printed and not told(printed), printed


def test_a_full_disk_does_not_tell_it(train, monkeypatch):
    full = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    status, printed = train(*HEAD)
    assert status == 2 and "are free in" in printed
    # Nor by how much more is needed.
    assert set(re.findall(r"[\d.]+ GB", printed)) == {"0.0 GB"}


def test_the_search_finds_n():
    assert told(f"{N} training") == {str(N)} and told(f"of {N:,}, all") == {str(N)}
    assert told(f"{N * VIEWS:,}/{N * VIEWS:,}") and not told(f"0.{N} a{N} {N}9")


def test_a_corrupt_image_does_not_tell_it(train, class_folder):
    for side in ("train", "test"):
        root = class_folder(f"broken/{side}", {"cat": 9, "dog": 7}).parent
    (root / "train" / "cat" / "0.png").write_bytes(b"no image")
    status, printed = train("--data", root, *SCRATCH)
    assert status == 2 and "1 image(s) cannot be decoded" in printed
    assert not re.search(r"\b(16|32|9|7)\b", printed.split("cannot be decoded")[0])
