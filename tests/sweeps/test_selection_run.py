"""The protocol of a private selection: secret draws, one plan, the best run alone."""

import json
import shutil
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
from dpmix.sweeps import selection as selection_run
from dpmix.sweeps.grid import load_sweep
from dpmix.sweeps.run import Outcome, on_this_machine, run_cell
from dpmix.sweeps.selection import candidates, select
from dpmix.training.trainer import PrivateTrainer

SWEEP = """
title: rates
settings: {data: mnist5k, steps: 1, expected_batch_size: 8}
grid: {learning_rate: [0.1, 0.2, 0.3]}
"""
SMALL = "model: cnn-small, method: none, delta: 0.001, eval_every: 3, checkpoint_every: 1"
PUBLIC = RunFolder(Path()).handed_out()


def among(tmp_path, text=SWEEP, expected_runs=5.0):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return candidates(load_sweep(path), expected_runs)


def scored(monkeypatch, accuracy, sigma=1.0, diverged=lambda cell, root: False):
    """Runs that are folders alone, with a score of our choosing: the protocol is what is tested."""
    monkeypatch.setattr(selection_run, "row_of", lambda cell, root: {
        "accuracy": accuracy(cell, root), "sigma": sigma, "sampling_rate": 0.1, "steps": 1,
        "examples": 10, "diverged": diverged(cell, root),
    })  # fmt: skip
    monkeypatch.setattr(selection_run, "_told", lambda root: "")


def fake_workers(done, stop_after=None, images=lambda root: "a b"):
    def work(runs):
        for cell, root in runs:
            if len(done) == stop_after:
                raise KeyboardInterrupt
            RunFolder(root).diagnostics.mkdir(parents=True, exist_ok=True)
            RunFolder(root).data_hash.write_text(images(root))
            RunFolder(root).config.write_text(str(cell.settings["learning_rate"]))
            done.append(root)
            yield Outcome(cell)

    return work


def silent(done, total):
    pass


def test_candidates_are_told_that_they_are_of_a_selection(tmp_path):
    assert {cell.config.privacy.expected_runs for cell in among(tmp_path)} == {5.0}


@pytest.mark.parametrize(("change", "message"), [
    (("{learning_rate: [0.1, 0.2, 0.3]}", "{steps: [1, 2]}"), "differ neither in privacy"),
    (("{learning_rate: [0.1, 0.2, 0.3]}", "{image_size: [8, 9]}"), "differ neither in privacy"),
    (("{learning_rate: [0.1, 0.2, 0.3]}", "{seed: [1]}"), "take seed out"),
    (("steps: 1, ", ""), "needs one plan"),
    (("steps: 1", "steps: 1, wandb: project"), "take wandb and tensorboard out"),
    (("steps: 1", "steps: 1, tensorboard: true"), "take wandb and tensorboard out"),
    ((", expected_batch_size: 8", ""), "needs one plan"),
    (("steps: 1", "steps: 1, epsilon: inf"), "finite epsilon"),
    (("grid: {learning_rate: [0.1, 0.2, 0.3]}",
      "grid: {seed: [1]}\ntune: {grid: {learning_rate: [1]}, validation_fraction: 0.1}"),
     "take `tune` out"),
])  # fmt: skip
def test_what_the_theorem_does_not_cover_is_refused(tmp_path, change, message):
    with pytest.raises(DpmixError, match=message):
        among(tmp_path, SWEEP.replace(*change))


def test_an_impossible_mean_is_refused(tmp_path):
    with pytest.raises(DpmixError, match="expected_runs is 0"):
        among(tmp_path, expected_runs=0.0)


def test_the_best_run_alone_is_left(tmp_path, monkeypatch):
    cells = among(tmp_path)
    scored(monkeypatch, lambda cell, root: cell.settings["learning_rate"])
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 60)
    best = select(cells, 200.0, tmp_path / "out", fake_workers([]), silent)
    # That none of 60 runs drew the best rate has a chance of 3e-11.
    assert (best / "config.yaml").read_text() == "0.3"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["best"]
    assert [entry.name for entry in best.iterdir()] == ["config.yaml"], "no diagnostics"


def test_a_stopped_selection_goes_on_with_the_runs_that_it_drew(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 4)
    scored(monkeypatch, lambda cell, root: 0.5)
    out, hidden = tmp_path / "out", tmp_path / "out" / "selection"
    with pytest.raises(KeyboardInterrupt):
        select(cells, 5.0, out, fake_workers([], stop_after=2), silent)
    before = json.loads((hidden / "drawn.json").read_text())
    assert "PRIVATE" in (hidden / "PRIVATE.txt").read_text()
    assert hidden.stat().st_mode & 0o077 == 0 and len(before["runs"]) == 4
    with pytest.raises(DpmixError, match="a selection among other settings"):
        select(cells[:2], 5.0, out, fake_workers([]), silent)
    done = []
    select(cells, 5.0, out, fake_workers(done), silent)
    assert [str(root.name) for root in done] == ["run-0", "run-1", "run-2", "run-3"]


def test_no_second_run_is_published_whatever_stops_the_first(tmp_path, monkeypatch):
    cells, out = among(tmp_path), tmp_path / "out"
    scored(monkeypatch, lambda cell, root: 0.5)

    rmtree = shutil.rmtree

    def stopped(path, *_, **__):
        if path.name == "selection":
            raise KeyboardInterrupt
        rmtree(path)

    with monkeypatch.context() as patch:
        patch.setattr(selection_run.shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            select(cells, 5.0, out, fake_workers([]), silent)
    (out / "best").rename(tmp_path / "published")
    with pytest.raises(DpmixError, match="is complete, and its best run was moved"):
        select(cells, 5.0, out, fake_workers([]), silent)
    assert not (out / "selection").exists() or not [*(out / "selection").glob("run-*")]


def test_the_best_run_is_not_lost_between_its_choice_and_its_place(tmp_path, monkeypatch):
    cells, out = among(tmp_path), tmp_path / "out"
    scored(monkeypatch, lambda cell, root: cell.settings["learning_rate"])

    def killed(path, to):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(selection_run.Path, "replace", killed)
        # Text files are put in their place by it too; the last one is the choice.
        patch.setattr(selection_run, "write_text", lambda path, text: path.write_text(text))
        with pytest.raises(KeyboardInterrupt):
            select(cells, 5.0, out, fake_workers([]), silent)
    hidden = out / "selection"
    chosen = (hidden / (hidden / "chosen").read_text() / "config.yaml").read_text()
    done = []
    best = select(cells, 5.0, out, fake_workers(done), silent)
    assert (best / "config.yaml").read_text() == chosen and done == []
    assert [entry.name for entry in out.iterdir()] == ["best"]


def test_a_choice_that_names_no_run_publishes_nothing(tmp_path):
    cells, out = among(tmp_path), tmp_path / "out"
    (out / "selection" / "run-0").mkdir(parents=True)
    (out / "selection" / "chosen").touch()
    with pytest.raises(DpmixError, match="is complete, and its best run was moved"):
        select(cells, 5.0, out, fake_workers([]), silent)
    assert [*out.iterdir()] == []


def test_a_run_that_fails_does_not_say_which_it_was(tmp_path):
    def failing(runs):
        (cell, root), *_ = runs
        yield Outcome(cell, f"run folder '{root}' is in use: job 17_3 died")

    with pytest.raises(DpmixError, match=r"run of the selection failed.*is in use") as error:
        select(among(tmp_path), 5.0, tmp_path / "out", failing, silent)
    assert str(error.value).endswith("/selection/run' is in use: job died")


def test_runs_without_what_was_drawn_are_not_gone_on_with(tmp_path):
    cells, out = among(tmp_path), tmp_path / "out"
    (out / "selection" / "run-0").mkdir(parents=True)
    with pytest.raises(DpmixError, match="holds runs and not what was drawn"):
        select(cells, 5.0, out, fake_workers([]), silent)


def test_ties_are_settled_by_coins_and_not_by_order(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 4)
    places = {}

    def tied(cell, root):
        places.setdefault(root.parent.parent.name, []).append(root)
        return 0.5

    scored(monkeypatch, tied)
    moved = []
    monkeypatch.setattr(Path, "replace", lambda path, to: moved.append(path.name) or to)
    for index in range(40):
        select(cells, 5.0, tmp_path / f"out-{index}", fake_workers([]), silent)
    # Each of four is first in 10 of 40 on average; none at all has a chance of 1e-5.
    assert {name for name in moved if name.startswith("run-")} == {f"run-{i}" for i in range(4)}


def test_a_run_that_diverged_is_not_chosen_while_another_did_not(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 30)

    def rate(cell, root):
        return cell.settings["learning_rate"]

    scored(monkeypatch, rate, diverged=lambda cell, root: rate(cell, root) == 0.3)
    best = select(cells, 5.0, tmp_path / "out", fake_workers([]), silent)
    assert RunFolder(best).config.read_text() == "0.2"


def test_candidates_are_drawn_with_equal_chances(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 3000)
    drawn = selection_run._drawn(cells, 5.0, tmp_path / "hidden")
    counts = [sum(index == place for index, _ in drawn) for place in range(3)]
    assert all(abs(count - 1000) < 130 for count in counts)  # 5 standard deviations


def test_a_run_that_fails_ends_the_selection_and_publishes_nothing(tmp_path):
    def failing(runs):
        yield Outcome(runs[0][0], "no space")

    with pytest.raises(DpmixError, match="a run of the selection failed: no space"):
        select(among(tmp_path), 5.0, tmp_path / "out", failing, silent)
    assert not (tmp_path / "out" / "best").exists()


def test_runs_on_several_sets_of_images_publish_nothing(tmp_path, monkeypatch):
    scored(monkeypatch, lambda cell, root: 0.5)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda *_: 3)
    work = fake_workers([], images=lambda root: root.name)
    with pytest.raises(DpmixError, match="the images changed between the runs of the selection"):
        select(among(tmp_path), 5.0, tmp_path / "out", work, silent)
    assert not (tmp_path / "out" / "best").exists()


def test_runs_of_one_candidate_that_tell_different_things_publish_nothing(tmp_path, monkeypatch):
    """As where a library was installed between them, or a cluster's nodes differ."""
    scored(monkeypatch, lambda cell, root: 0.5)
    monkeypatch.setattr(selection_run, "_told", lambda root: root.name)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda *_: 4)
    with pytest.raises(DpmixError, match="differ in what was left to the defaults"):
        select(among(tmp_path), 5.0, tmp_path / "out", fake_workers([]), silent)
    assert not (tmp_path / "out" / "best").exists()


def test_other_versions_do_not_go_on_with_a_selection(tmp_path, monkeypatch):
    cells, out = among(tmp_path), tmp_path / "out"
    monkeypatch.setattr(selection_run, "number_of_runs", lambda *_: 4)
    with pytest.raises(KeyboardInterrupt):
        select(cells, 5.0, out, fake_workers([], stop_after=2), silent)
    monkeypatch.setattr(selection_run, "versions", lambda: {"torch": "9"})
    with pytest.raises(DpmixError, match="begun with other versions of dpmix or its libraries"):
        select(cells, 5.0, out, fake_workers([]), silent)


def test_runs_of_several_plans_publish_nothing(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 4)
    sigmas = iter([1.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(selection_run, "row_of", lambda cell, root: {
        "accuracy": 0.5, "sigma": next(sigmas), "sampling_rate": 0.1, "steps": 1, "examples": 10,
    })  # fmt: skip
    with pytest.raises(DpmixError, match="differ in their plan"):
        select(cells, 5.0, tmp_path / "out", fake_workers([]), silent)
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

    def run(cell, root, threads, gpu):
        place = int(root.name.removeprefix("run-"))
        clock = SimpleNamespace(now=lambda *_: datetime(2026, 1, 1 + place))
        monkeypatch.setattr("dpmix.reports.statement.datetime", clock)
        monkeypatch.setattr("platform.machine", lambda: f"machine {place}")
        monkeypatch.setattr("platform.node", lambda: f"node {place}")
        monkeypatch.setattr("socket.gethostname", lambda: f"node {place}")
        monkeypatch.setattr("os.getpid", lambda: 1000 + place)
        monkeypatch.setattr("torch.get_num_threads", lambda: 1 + place)
        monkeypatch.setattr(
            "dpmix.clipping.types.EngineConfig.__str__", lambda _: f"engine {place}"
        )
        return run_cell(cell, root, threads, gpu)

    monkeypatch.setattr(workers, "run_cell", run)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)


def published(folder, data, patch, *, runs, place, stop):
    """All that is published of `runs` runs of which the one at `place` is the best.

    That one is stopped within its step `stop` and gone on with, if that is given.
    """
    text = SWEEP.replace("mnist5k", str(data)).replace("[0.1, 0.2, 0.3]", "[0.1]")
    folder.mkdir()
    cells = among(folder, text.replace("steps: 1", f"{SMALL}, steps: 3"))
    patch.setattr(selection_run.random, "SystemRandom", lambda: Tied(place))
    patch.setattr(selection_run, "number_of_runs", lambda *_: runs)
    step, taken = PrivateTrainer.step, iter(range(1, 999))

    def stopped(trainer):
        if next(taken) == 3 * place + stop:
            raise KeyboardInterrupt
        return step(trainer)

    call = (cells, 5.0, folder / "out", lambda todo: on_this_machine(todo, 1), silent)
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
    """Whoever can tell its place learns more than the theorem's epsilon allows."""
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
