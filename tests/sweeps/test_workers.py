"""Processes that make a sweep's runs: outcomes as they come, and one that is killed."""

import os
import signal
from contextlib import contextmanager

import pytest

from dpmix.errors import DpmixError
from dpmix.sweeps import run as cell_run
from dpmix.sweeps import run as workers
from dpmix.sweeps.grid import Cell
from dpmix.sweeps.run import Outcome


def cells(tmp_path, count):
    return [(Cell(f"row {i}", {}, {}, None), tmp_path / str(i)) for i in range(count)]


def test_every_run_is_made_in_a_process_of_its_own_with_its_share_of_cores(tmp_path, monkeypatch):
    def run(cell, root, threads, gpu):
        return Outcome(cell, f"{os.getpid()} {threads}")

    monkeypatch.setattr(workers, "run_cell", run)
    outcomes = [*workers.on_this_machine(cells(tmp_path, 4), 2)]
    assert {outcome.cell.row for outcome in outcomes} == {f"row {i}" for i in range(4)}
    assert str(os.getpid()) not in {outcome.error.split()[0] for outcome in outcomes}
    assert {int(outcome.error.split()[1]) for outcome in outcomes} == {
        max(1, (os.cpu_count() or 1) // 2)
    }


def test_a_killed_process_is_told_and_what_was_done_is_kept(tmp_path, monkeypatch):
    def run(cell, root, threads, gpu):
        if cell.row == "row 1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(cell)

    monkeypatch.setattr(workers, "run_cell", run)
    with pytest.raises(DpmixError, match=r"was killed.*fewer --jobs"):
        [*workers.on_this_machine(cells(tmp_path, 3), 2)]


def test_gpus_are_dealt_out_in_turn_and_no_setting_names_them(tmp_path, monkeypatch):
    """A run publishes its settings."""
    active, seen = [None], []

    @contextmanager
    def on(number):
        active[0] = number
        yield
        active[0] = None

    def assembled(config):
        seen.append((active[0], config.run.device))

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device", on)
    monkeypatch.setattr(cell_run, "build_run", assembled)
    monkeypatch.setattr(cell_run, "run", lambda parts: None)
    assert not any(outcome.error for outcome in workers.on_this_machine(cells(tmp_path, 3), 1))
    named = Cell("named", {}, {"device": "cuda:1"}, None)
    [*workers.on_this_machine([(named, tmp_path / "named")], 1)]
    assert seen == [(0, "auto"), (1, "auto"), (0, "auto"), (None, "cuda:1")]
