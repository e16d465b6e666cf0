"""The protocol of a private selection: secret draws, one plan, the best run alone."""

import json
from pathlib import Path

import pytest

from dpmix.errors import DpmixError
from dpmix.experiments import selection_run
from dpmix.experiments.cell_run import Outcome
from dpmix.experiments.selection_run import candidates, select
from dpmix.experiments.sweep_file import load_sweep
from dpmix.training.run_folder import RunFolder

SWEEP = """
title: rates
settings: {data: mnist5k, steps: 1, expected_batch_size: 8}
grid: {learning_rate: [0.1, 0.2, 0.3]}
"""


def among(tmp_path, text=SWEEP, expected_runs=5.0):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return candidates(load_sweep(path), expected_runs)


def scored(monkeypatch, accuracy, sigma=1.0):
    """Runs that are folders alone, with a score of our choosing: the protocol is what is tested."""
    monkeypatch.setattr(selection_run, "row_of", lambda cell, root: {
        "accuracy": accuracy(cell, root), "sigma": sigma, "sampling_rate": 0.1, "steps": 1,
        "examples": 10,
    })  # fmt: skip


def workers(done, stop_after=None, images=lambda root: "a b"):
    def work(runs):
        for cell, root in runs:
            if len(done) == stop_after:
                raise KeyboardInterrupt
            RunFolder(root).diagnostics.mkdir(parents=True, exist_ok=True)
            RunFolder(root).data_hash.write_text(images(root))
            (root / "rate").write_text(str(cell.settings["learning_rate"]))
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
    done = []
    scored(monkeypatch, lambda cell, root: cell.settings["learning_rate"])
    best = select(cells, 200.0, tmp_path / "out", workers(done), silent)
    rates = {1: "0.1"}
    assert (best / "rate").read_text() == "0.3" if len(done) > 20 else rates
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["best"]


def test_a_stopped_selection_goes_on_with_the_runs_that_it_drew(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 4)
    scored(monkeypatch, lambda cell, root: 0.5)
    out, hidden = tmp_path / "out", tmp_path / "out" / "selection"
    with pytest.raises(KeyboardInterrupt):
        select(cells, 5.0, out, workers([], stop_after=2), silent)
    before = json.loads((hidden / "drawn.json").read_text())
    assert "PRIVATE" in (hidden / "PRIVATE.txt").read_text()
    assert hidden.stat().st_mode & 0o077 == 0 and len(before["runs"]) == 4
    with pytest.raises(DpmixError, match="a selection among other settings"):
        select(cells[:2], 5.0, out, workers([]), silent)
    done = []
    select(cells, 5.0, out, workers(done), silent)
    assert [str(root.name) for root in done] == ["run-0", "run-1", "run-2", "run-3"]


def test_no_second_run_is_published_whatever_stops_the_first(tmp_path, monkeypatch):
    cells, out = among(tmp_path), tmp_path / "out"
    scored(monkeypatch, lambda cell, root: 0.5)

    def stopped(path, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(selection_run.shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt):
            select(cells, 5.0, out, workers([]), silent)
    (out / "best").rename(tmp_path / "published")
    with pytest.raises(DpmixError, match="is complete, and its best run was moved"):
        select(cells, 5.0, out, workers([]), silent)
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
            select(cells, 5.0, out, workers([]), silent)
    hidden = out / "selection"
    chosen = (hidden / (hidden / "chosen").read_text() / "rate").read_text()
    done = []
    best = select(cells, 5.0, out, workers(done), silent)
    assert (best / "rate").read_text() == chosen and done == []
    assert [entry.name for entry in out.iterdir()] == ["best"]


def test_a_choice_that_names_no_run_publishes_nothing(tmp_path):
    cells, out = among(tmp_path), tmp_path / "out"
    (out / "selection" / "run-0").mkdir(parents=True)
    (out / "selection" / "chosen").touch()
    with pytest.raises(DpmixError, match="is complete, and its best run was moved"):
        select(cells, 5.0, out, workers([]), silent)
    assert [*out.iterdir()] == []


def test_a_run_that_fails_does_not_say_which_it_was(tmp_path):
    def failing(runs):
        (cell, root), *_ = runs
        yield Outcome(cell, f"run folder '{root}' is in use")

    with pytest.raises(DpmixError, match=r"run of the selection failed.*is in use") as error:
        select(among(tmp_path), 5.0, tmp_path / "out", failing, silent)
    assert "run-0" not in str(error.value)


def test_runs_without_what_was_drawn_are_not_gone_on_with(tmp_path):
    cells, out = among(tmp_path), tmp_path / "out"
    (out / "selection" / "run-0").mkdir(parents=True)
    with pytest.raises(DpmixError, match="holds runs and not what was drawn"):
        select(cells, 5.0, out, workers([]), silent)


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
        select(cells, 5.0, tmp_path / f"out-{index}", workers([]), silent)
    # Each of four is first in 10 of 40 on average; none at all has a chance of 1e-5.
    assert {name for name in moved if name.startswith("run-")} == {f"run-{i}" for i in range(4)}


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
    work = workers([], images=lambda root: root.name)
    with pytest.raises(DpmixError, match="the images changed between the runs of the selection"):
        select(among(tmp_path), 5.0, tmp_path / "out", work, silent)
    assert not (tmp_path / "out" / "best").exists()


def test_runs_of_several_plans_publish_nothing(tmp_path, monkeypatch):
    cells = among(tmp_path)
    monkeypatch.setattr(selection_run, "number_of_runs", lambda mean, uniform: 4)
    sigmas = iter([1.0, 1.0, 2.0, 1.0])
    monkeypatch.setattr(selection_run, "row_of", lambda cell, root: {
        "accuracy": 0.5, "sigma": next(sigmas), "sampling_rate": 0.1, "steps": 1, "examples": 10,
    })  # fmt: skip
    with pytest.raises(DpmixError, match="differ in their plan"):
        select(cells, 5.0, tmp_path / "out", workers([]), silent)
    assert not (tmp_path / "out" / "best").exists()
