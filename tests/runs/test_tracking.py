"""Curves: what is sent, and what is never sent."""

import re
import sys
import time

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dpmix
from dpmix.errors import DpmixError
from dpmix.runs.config import Config
from dpmix.runs.tracking import WeightsAndBiases

pytestmark = pytest.mark.usefixtures("plain_pages")

PUBLIC = {"epsilon", "test_accuracy", "test_loss"}


@pytest.fixture
def settings(image_root, tmp_path, quick):
    return quick | {
        "data": str(image_root), "output": str(tmp_path / "run"), "steps": 6, "eval_every": 2,
        "checkpoint_every": 1, "device": "cpu",
    }  # fmt: skip


def curves(folder):
    """Steps and values by curve. No point tells how long a step took: all have one time."""
    events = EventAccumulator(str(folder)).Reload()
    points = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    assert len({e.wall_time for curve in points.values() for e in curve}) == 1
    return {tag: [(e.step, e.value) for e in curve] for tag, curve in points.items()}


def test_tensorboard_gets_evaluations_and_nothing_else(tmp_path, settings):
    result = dpmix.fit(tensorboard=True, report=lambda _: time.sleep(0.02), **settings)
    drawn = curves(tmp_path / "run" / "tensorboard")
    assert set(drawn) == PUBLIC
    assert [step for step, _ in drawn["epsilon"]] == [2, 4, 6]
    assert drawn["epsilon"][-1][1] == pytest.approx(result.plan.epsilon)


def test_no_point_of_wandb_tells_how_long_steps_took(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = WeightsAndBiases("study", "a-run", tmp_path, {})
    for step in (1, 2, 3):
        tracker.log(step, {"test_accuracy": step / 3})
        time.sleep(0.5)
    tracker.close()
    (log,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20
    while (sent := log.read_bytes()).count(b"test_accuracy") < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    for clock, digits in ((b"_timestamp", rb"1\.\d+e\+09"), (b"_runtime", rb"\d+\.\d+")):
        times = {
            float(found) for found in re.findall(clock + rb"[^\d]{1,6}(" + digits + rb")", sent)
        }
        assert times and max(times) - min(times) < 0.5, (clock, times)


def test_wandb_is_told_neither_what_is_private_nor_where_anything_lies(
    tmp_path, settings, image_root, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    dpmix.fit(wandb="study", **settings)
    (log,) = (tmp_path / "run" / "diagnostics" / "wandb").glob("offline-run-*/run-*.wandb")
    # wandb's own process may still be writing when `finish` returns.
    deadline = time.monotonic() + 20
    while b"test_accuracy" not in (sent := log.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for word in (b"test_accuracy", b"epsilon", b"expected_batch_size"):
        assert word in sent
    for word in (b"median_norm", b"clipped", b"dropped"):
        assert word not in sent
    for secret in (str(image_root), str(tmp_path), sys.executable):
        assert secret.encode() not in sent, secret
    assert b"undisclosed" in sent, "in the place of the machine's name"


def test_no_setting_that_is_shown_names_a_path():
    config = Config.load(
        data="secret/a", pool="secret/b", pool_labels="secret/c", backbone_weights="secret/d",
        backbone="timm:x", prior_releases=["secret/e"], output="secret/f", cache_dir="secret/g",
        data_root="secret/h",
    )  # fmt: skip
    assert "secret" not in str(config.published())


def test_a_missing_library_is_said_before_anything_is_trained(tmp_path, settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DpmixError, match=r"pip install 'dp-mix-images\[tracking\]'"):
        dpmix.fit(wandb="study", **settings)
    assert not (tmp_path / "run" / "model.safetensors").exists()
