"""The protocol of a private selection: secret draws, one plan, and only the best run leaves."""

import json
import shutil
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import pytest

from dpmix.errors import DpmixError
from dpmix.privacy import plan as plan_module
from dpmix.privacy import selection as private_selection
from dpmix.privacy.randomness import Randomness
from dpmix.reports.verify import verify
from dpmix.runs.folder import RunFolder
from dpmix.sweeps import run as workers
from dpmix.sweeps import selection
from dpmix.sweeps.grid import load_sweep
from dpmix.sweeps.run import Outcome, finish, on_this_machine
from dpmix.sweeps.selection import candidates, select
from dpmix.training.trainer import PrivateTrainer
from example_facts import facts

SWEEP = """
title: rates
settings: {data: mnist5k, steps: 1, expected_batch_size: 8}
grid: {learning_rate: [0.1, 0.2, 0.3]}
"""
SMALL = "model: cnn-small, method: none, delta: 0.001, eval_every: 3, checkpoint_every: 1"
PUBLIC = RunFolder(Path()).published


def among(tmp_path, text=SWEEP, expected_runs=5.0):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return candidates(load_sweep(path), expected_runs)


@pytest.fixture
def protocol(tmp_path, monkeypatch):
    """Runs that are folders with an accuracy of our choosing: the protocol is what is tested.

    protocol(accuracy=..., runs=...) selects and returns the best folder; `accuracy` and `loss` are
    functions of a run's rate, `statement` changes that of the run in a folder.
    """
    run, cells = facts(), among(tmp_path)

    def start(
        *,
        accuracy=lambda rate: 0.5,
        loss=lambda rate: 0.5,
        runs=4,
        stop_after=None,
        images=lambda root: "a b",
        statement=lambda root: {},
        out="out",
        among=cells,
    ):
        def work(todo):
            for one, root in todo:
                if len(start.made) == stop_after:
                    raise KeyboardInterrupt
                RunFolder(root).diagnostics.mkdir(parents=True, exist_ok=True)
                RunFolder(root).data_hash.write_text(images(root))
                RunFolder(root).config.write_text(str(one.settings["learning_rate"]))
                start.made.append(root.name)
                yield Outcome(one)

        def read(folder):
            rate = folder.config.read_text()
            measured = {"score": accuracy(rate), "evaluation_loss": loss(rate)}
            return replace(
                run, metrics=run.metrics.model_copy(update=measured),
                statement=run.statement.model_copy(update=statement(folder.root)),
            )  # fmt: skip

        start.made = []
        monkeypatch.setattr(selection, "number_of_runs", lambda mean, uniform: runs)
        monkeypatch.setattr(selection, "read_facts", read)
        return select(among, 5.0, tmp_path / out, work, lambda done, total: None)

    start.made = []
    return start


@pytest.mark.parametrize(("change", "message"), [
    (("{learning_rate: [0.1, 0.2, 0.3]}", "{steps: [1, 2]}"), "differ neither in privacy"),
    (("{learning_rate: [0.1, 0.2, 0.3]}", "{seed: [1]}"), "take seed out"),
    (("steps: 1, ", ""), "needs one plan"),
    (("steps: 1", "steps: 1, wandb: project"), "take wandb out"),
    (("steps: 1", "steps: 1, epsilon: inf"), "finite epsilon"),
    (("grid: {learning_rate: [0.1, 0.2, 0.3]}",
      "grid: {seed: [1]}\ntune: {grid: {learning_rate: [1]}, validation_fraction: 0.1}"),
     "take `tune` out"),
])  # fmt: skip
def test_what_the_theorem_does_not_cover_is_refused(tmp_path, change, message):
    with pytest.raises(DpmixError, match=message):
        among(tmp_path, SWEEP.replace(*change))


def test_only_the_best_run_is_left(protocol, tmp_path):
    # That none of 60 runs drew the best rate has a chance of 3e-11.
    best = protocol(accuracy=float, runs=60)
    assert (best / "config.yaml").read_text() == "0.3"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["best"]
    assert [entry.name for entry in best.iterdir()] == ["config.yaml"], "no diagnostics"


def test_a_stopped_selection_resumes_the_runs_that_it_drew(protocol, tmp_path):
    hidden = tmp_path / "out" / "selection"
    with pytest.raises(KeyboardInterrupt):
        protocol(stop_after=2)
    drawn = json.loads((hidden / "drawn.json").read_text())
    assert "PRIVATE" in (hidden / "PRIVATE.txt").read_text()
    assert hidden.stat().st_mode & 0o077 == 0 and len(drawn["runs"]) == 4
    with pytest.raises(DpmixError, match="a selection among other settings"):
        protocol(among=among(tmp_path)[:2])
    protocol()
    assert protocol.made == ["run-0", "run-1", "run-2", "run-3"]


def test_other_versions_do_not_resume_a_selection(protocol, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        protocol(stop_after=2)
    monkeypatch.setattr(selection, "versions", lambda: {"torch": "9"})
    with pytest.raises(DpmixError, match="of other versions of dpmix or its libraries"):
        protocol()


def test_no_second_run_is_published_whatever_stops_the_first(protocol, tmp_path, monkeypatch):
    rmtree = shutil.rmtree

    def stopped(path, *_, **__):
        if (path / "chosen").exists():
            raise KeyboardInterrupt
        rmtree(path, ignore_errors=True)

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            protocol()
    (tmp_path / "out" / "best").rename(tmp_path / "published")
    with pytest.raises(DpmixError, match="is complete, and its best run was moved"):
        protocol()
    assert not (tmp_path / "out" / "selection").exists()


def test_a_selection_stopped_before_it_published_publishes_its_choice(
    protocol, tmp_path, monkeypatch
):
    def stopped(path, to):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(selection.os, "utime", stopped)
        with pytest.raises(KeyboardInterrupt):
            protocol(accuracy=float, runs=60)
    chosen = (tmp_path / "out" / "selection" / "chosen").read_text()
    rate = (tmp_path / "out" / "selection" / chosen / "config.yaml").read_text()
    # The others are no longer looked at: their accuracies would now choose another one.
    best = protocol(accuracy=lambda rate: -float(rate))
    assert (best / "config.yaml").read_text() == rate == "0.3" and protocol.made == []
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["best"]


def test_a_run_that_fails_ends_the_selection_and_does_not_say_which_it_was(tmp_path):
    def failing(runs):
        (run, root), *_ = runs
        yield Outcome(run, f"run folder '{root}' is in use: job 17_3 died")

    out = tmp_path / "out"
    with pytest.raises(DpmixError, match=r"run of the selection failed.*is in use") as error:
        select(among(tmp_path), 5.0, out, failing, lambda done, total: None)
    assert str(error.value).endswith("/selection/run' is in use: job died")
    assert not (out / "best").exists()


def test_ties_are_settled_by_random_draws_and_not_by_order(protocol, monkeypatch):
    moved = []

    def publish(chosen, best):
        moved.append(chosen.name)
        return best

    monkeypatch.setattr(selection, "_publish", publish)
    for index in range(40):
        protocol(out=f"out-{index}")
    # Each of four is first in 10 of 40 on average; none at all has a chance of 1e-5.
    assert set(moved) == {f"run-{place}" for place in range(4)}


def test_candidates_are_drawn_with_equal_chances(protocol, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        protocol(runs=3000, stop_after=0)
    drawn = json.loads((tmp_path / "out" / "selection" / "drawn.json").read_text())["runs"]
    counts = [sum(index == place for index, _ in drawn) for place in range(3)]
    assert all(abs(count - 1000) < 130 for count in counts)  # 5 standard deviations


@pytest.mark.parametrize(("differs", "message"), [
    ({"images": lambda root: root.name}, "the images changed between the runs of the selection"),
    ({"statement": lambda root: {"steps": int(root.name[-1])}}, "differ in their plan"),
    # A library was installed between them, or the nodes of a cluster differ.
    ({"statement": lambda root: {"versions": {"torch": root.name}}},
     "differ in what was left to the defaults"),
])  # fmt: skip
def test_runs_that_differ_in_what_they_must_share_publish_nothing(
    protocol, tmp_path, differs, message
):
    with pytest.raises(DpmixError, match=message):
        protocol(**differs)
    assert not (tmp_path / "out" / "best").exists()


class Tied:
    """Draws of the selection by which all runs have one candidate, and one place wins the tie."""

    def __init__(self, place):
        self._coins = iter([0.0, *(float(run == place) for run in range(99))])

    def random(self):
        return next(self._coins)

    def randrange(self, *_):
        return 0


@pytest.fixture
def same_outcome(monkeypatch):
    """All that a run draws is the same for all runs."""
    for module in ("dpmix.runs.build", "dpmix.training.trainer"):
        monkeypatch.setattr(f"{module}.Randomness", lambda seed, rank=0: Randomness(7, rank))
    monkeypatch.setattr("dpmix.runs.record.uuid4", lambda: UUID(int=7))
    # The accountant takes most of the time, and says the same of every run.
    for name in ("calibrate_selected", "epsilon_selected"):
        monkeypatch.setattr(private_selection, name, cache(getattr(private_selection, name)))
    monkeypatch.setattr(plan_module, "calibrate_selected", private_selection.calibrate_selected)


@pytest.fixture
def surroundings(monkeypatch):
    """Every run has its own clock, machine, GPU and engine."""

    def run(one, root, threads, gpu):
        place = int(root.name.removeprefix("run-"))
        clock = SimpleNamespace(now=lambda *_: datetime(2026, 1, 1 + place))
        monkeypatch.setattr("dpmix.reports.guarantee.datetime", clock)
        monkeypatch.setattr("platform.machine", lambda: f"machine {place}")
        monkeypatch.setattr("platform.node", lambda: f"node {place}")
        monkeypatch.setattr("socket.gethostname", lambda: f"node {place}")
        monkeypatch.setattr("os.getpid", lambda: 1000 + place)
        monkeypatch.setattr("torch.get_num_threads", lambda: 1 + place)
        monkeypatch.setattr(
            "dpmix.clipping.types.EngineConfig.__str__", lambda _: f"engine {place}"
        )
        return finish(one, root, threads, gpu)

    monkeypatch.setattr(workers, "finish", run)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)


def published(folder, data, patch, *, runs, place, stop):
    """All that is published of `runs` runs of which the one at `place` is the best.

    That one is stopped within its step `stop` and resumed, if that is given.
    """
    text = SWEEP.replace("mnist5k", str(data)).replace("[0.1, 0.2, 0.3]", "[0.1]")
    folder.mkdir()
    cells = among(folder, text.replace("steps: 1", f"{SMALL}, steps: 3"))
    patch.setattr(selection.random, "SystemRandom", lambda: Tied(place))
    patch.setattr(selection, "number_of_runs", lambda *_: runs)
    step, taken = PrivateTrainer.step, iter(range(1, 999))

    def stopped(trainer):
        if next(taken) == 3 * place + stop:
            raise KeyboardInterrupt
        return step(trainer)

    call = (cells, 5.0, folder / "out", lambda todo: on_this_machine(todo, 1), lambda *_: None)
    if stop is not None:
        with patch.context() as stopping, pytest.raises(KeyboardInterrupt):
            stopping.setattr(PrivateTrainer, "step", stopped)
            select(*call)
    best = select(*call)
    return {
        str(path.relative_to(folder)): (
            path.is_file() and path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_mode,
        )
        for path in (best, *best.rglob("*"))
    }  # fmt: skip


@pytest.mark.usefixtures("same_outcome", "surroundings", "unchecked")
def test_what_is_published_is_the_same_wherever_the_best_run_stood(
    tmp_path, digits_npz, monkeypatch
):
    """Anyone who can tell its place learns more than the theorem's epsilon allows."""
    alone, *others = (
        published(tmp_path / str(place), digits_npz, monkeypatch, **where)
        for place, where in enumerate([
            {"runs": 1, "place": 0, "stop": None}, {"runs": 2, "place": 0, "stop": None},
            {"runs": 2, "place": 1, "stop": None}, {"runs": 2, "place": 1, "stop": 2},
        ])
    )  # fmt: skip
    assert set(alone) == {"out/best", *(f"out/best/{path.name}" for path in PUBLIC)}
    for other in others:
        assert other == alone
    verify(tmp_path / "0" / "out" / "best")


def test_a_run_that_diverged_is_not_chosen_while_another_did_not(protocol):
    best = protocol(accuracy=float, loss=lambda rate: "nan" if rate == "0.3" else 0.5, runs=60)
    assert RunFolder(best).config.read_text() == "0.2"


def test_a_choice_that_names_no_run_publishes_nothing(protocol, tmp_path):
    out = tmp_path / "out"
    (out / "selection" / "run-0").mkdir(parents=True)
    (out / "selection" / "chosen").touch()
    with pytest.raises(DpmixError, match="is complete, and its best run was moved"):
        protocol()
    assert [*out.iterdir()] == []


def test_runs_without_the_draws_they_are_from_are_not_resumed(protocol, tmp_path):
    stray = tmp_path / "out" / "selection" / "run-0" / "diagnostics" / "stray"
    stray.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        protocol(stop_after=1)
    assert stray.parents[1].is_dir() and not stray.exists()
