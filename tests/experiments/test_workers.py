"""Processes that make a sweep's runs: outcomes as they come, and one that is killed."""

import os
import signal

import pytest

from dpmix.errors import DpmixError
from dpmix.experiments import workers
from dpmix.experiments.cell_run import Outcome
from dpmix.experiments.sweep_file import Cell


def cells(tmp_path, count):
    return [(Cell(f"row {i}", {}, {}, None), tmp_path / str(i)) for i in range(count)]


def test_every_run_is_made_in_a_process_of_its_own_with_its_share_of_cores(tmp_path, monkeypatch):
    def run(cell, root, threads, device):
        return Outcome(cell, f"{os.getpid()} {threads}")

    monkeypatch.setattr(workers, "run_cell", run)
    outcomes = [*workers.on_this_machine(cells(tmp_path, 4), 2)]
    assert {outcome.cell.row for outcome in outcomes} == {f"row {i}" for i in range(4)}
    assert str(os.getpid()) not in {outcome.error.split()[0] for outcome in outcomes}
    assert {int(outcome.error.split()[1]) for outcome in outcomes} == {
        max(1, (os.cpu_count() or 1) // 2)
    }


def test_a_killed_process_is_told_and_what_was_done_is_kept(tmp_path, monkeypatch):
    def run(cell, root, threads, device):
        if cell.row == "row 1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(cell)

    monkeypatch.setattr(workers, "run_cell", run)
    with pytest.raises(DpmixError, match=r"was killed.*fewer --jobs"):
        [*workers.on_this_machine(cells(tmp_path, 3), 2)]
