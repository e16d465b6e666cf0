"""A checkpoint is whole, holds nothing private, and is due by a clock that nobody can set."""

import random
import time

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.runs.checkpoint import Checkpoint, Checkpoints
from dpmix.runs.settings import RunConfig
from dpmix.training.loop import History
from small_run import plan


def written(path):
    Checkpoint(
        run_id="r", config="run: {}", plan=plan(), ranks=1, pool_sha256=None, step=3,
        resumed_at=(1,), weights={"w": torch.ones(3)}, optimizer={}, schedule={}, ema={},
        history=History(),
    ).write(path)  # fmt: skip
    return path


def test_what_is_written_is_read_back(tmp_path):
    read = Checkpoint.read(written(tmp_path / "step-00000003.pt"))
    assert (read.plan, read.step, read.resumed_at) == (plan(), 3, (1,))
    assert read.history == History() and torch.equal(read.weights["w"], torch.ones(3))
    # Weights, what follows from them, and public facts: nothing else has a place.
    assert set(vars(read)) == {
        "run_id", "config", "plan", "ranks", "pool_sha256", "step", "resumed_at",
        "weights", "optimizer", "schedule", "ema", "history",
    }  # fmt: skip


def test_every_flipped_bit_is_noticed(tmp_path):
    path = written(tmp_path / "step-00000003.pt")
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(50):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(DpmixError, match="damaged, or no checkpoint"):
            Checkpoint.read(path)
    path.write_bytes(whole[:20])
    with pytest.raises(DpmixError, match="damaged, or no checkpoint"):
        Checkpoint.read(path)


def test_a_clock_that_jumps_makes_no_checkpoint_due_and_none_late(tmp_path, monkeypatch):
    now = time.monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now)
    checkpoints = Checkpoints(tmp_path, RunConfig(checkpoint_minutes=5))
    for jump in (-1e9, 1e9):
        monkeypatch.setattr("time.time", lambda jump=jump: 1.7e9 + jump)
        assert not checkpoints.due(1)
    monkeypatch.setattr("time.monotonic", lambda: now + 299)
    assert not checkpoints.due(1)
    monkeypatch.setattr("time.monotonic", lambda: now + 301)
    assert checkpoints.due(1)
