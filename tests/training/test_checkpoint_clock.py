"""Checkpoints by the minute are due by a clock that nobody can set."""

import time

from dpmix.runs.checkpoint import Checkpoints
from dpmix.runs.settings import RunConfig


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
