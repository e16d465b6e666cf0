"""Making a sweep's runs: their order, their processes, and the settings that tries choose."""

import os
import signal
from contextlib import contextmanager

import pytest

from dpmix.errors import DpmixError
from dpmix.sweeps import run as workers
from dpmix.sweeps.grid import SweepRun, load_sweep
from dpmix.sweeps.run import Outcome, on_this_machine, tuned_runs


def runs(tmp_path, count):
    return [(SweepRun(f"row {i}", {}, {}, None), tmp_path / str(i)) for i in range(count)]


def test_a_killed_process_is_reported(tmp_path, monkeypatch):
    def finish(run, root, threads, gpu):
        if run.row == "row 1":
            os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(run)

    monkeypatch.setattr(workers, "finish", finish)
    with pytest.raises(DpmixError, match=r"was killed.*fewer --jobs"):
        [*on_this_machine(runs(tmp_path, 3), 2)]


def test_gpus_are_dealt_out_in_turn_and_no_setting_names_them(tmp_path, monkeypatch):
    """A run publishes its settings."""
    active, seen = [None], []

    @contextmanager
    def on(number):
        active[0] = number
        yield
        active[0] = None

    def build(config):
        seen.append((active[0], config.run.device))

    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device", on)
    monkeypatch.setattr(workers, "build_run", build)
    monkeypatch.setattr(workers, "train_run", lambda parts: None)
    assert not any(outcome.error for outcome in on_this_machine(runs(tmp_path, 3), 1))
    named = SweepRun("named", {}, {"device": "cuda:1"}, None)
    [*on_this_machine([(named, tmp_path / "named")], 1)]
    assert seen == [(0, "auto"), (1, "auto"), (0, "auto"), (None, "cuda:1")]


SWEEP = """
title: t
rows: {a: {method: none}, b: {method: self-aug}}
grid: {epsilon: [1, 8], seed: [0, 1]}
tune: {grid: {learning_rate: [0.5, 2], seed: [7, 8]}, validation_fraction: 0.1}
"""


@pytest.fixture
def sweep(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP)
    return load_sweep(path)


def tried(sweep, accuracy, diverged=lambda *_, **__: False):
    facts = {"accuracy": accuracy, "diverged": diverged}
    return [
        (run, {name: of(run.row, **run.swept) for name, of in facts.items()}) for run in sweep.tries
    ]


def test_the_best_mean_over_seeds_wins_for_each_row_and_epsilon(sweep):
    def accuracy(row, epsilon, learning_rate, seed):
        if row == "a":  # the higher rate has the best single try, and the worse mean
            return {0.5: {7: 0.6, 8: 0.6}, 2: {7: 0.9, 8: 0.1}}[learning_rate][seed]
        return learning_rate if epsilon == 8 else -learning_rate

    tuned = tuned_runs(sweep, tried(sweep, accuracy))
    chosen = {(c.row, c.swept["epsilon"], c.config.optimizer.learning_rate) for c in tuned}
    assert chosen == {("a", 1, 0.5), ("a", 8, 0.5), ("b", 1, 0.5), ("b", 8, 2)}
    assert [run.swept["seed"] for run in tuned] == [0, 1] * 4
    assert tuned[0].tuned == {"learning_rate": 0.5} and "learning_rate" not in tuned[0].swept
