"""A stopped run goes on as if it had not been stopped, or is refused with the reason."""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dpmix
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_pld
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.fit import train_run as run
from dpmix.runs.folder import RunFolder
from dpmix.runs.record import RunRecord
from dpmix.runs.resume import is_complete, rebuild_run

STEPS = 6


class StoppedError(Exception):
    """The run is stopped here."""


def stop(*_):
    """Take the place of whatever is to fail."""
    raise StoppedError


@pytest.fixture
def settings(image_root, quick):
    return quick | {
        "data": str(image_root), "steps": STEPS, "eval_every": 2, "checkpoint_every": 1,
        "device": "cpu", "seed": 7,
    }  # fmt: skip


def stopped(folder, step, settings):
    """A run in `folder` that was stopped after it had reported `step`."""

    with pytest.raises(StoppedError):
        dpmix.fit(output=str(folder), report=lambda now: now.step == step and stop(), **settings)
    return folder


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def statement(folder):
    return json.loads((folder / "privacy.json").read_text())


def without_time(folder):
    lines = (folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("changes", [
    {},
    {"optimizer": "Adam", "learning_rate": 0.01, "schedule": "cosine"},
    {"method": "microbatch-mixup"},
    {"checkpoint_every": 3, "eval_every": 6},
])  # fmt: skip
def test_a_seeded_run_that_was_stopped_ends_bit_identical(tmp_path, settings, changes):
    settings |= changes
    whole = dpmix.fit(output=str(tmp_path / "whole"), **settings)
    for step in (1, 2, 5):
        folder = stopped(tmp_path / str(step), step, settings)
        result = dpmix.fit(resume=folder)
        assert same(weights(whole.folder), weights(folder))
        assert result.evaluation == whole.evaluation
        assert without_time(folder) == without_time(whole.folder)
        curves = [json.loads((f / "metrics.json").read_text())["curve"]
                  for f in (folder, whole.folder)]  # fmt: skip
        assert curves[0] == curves[1]


def test_dropout_repeats_too(tmp_path, image_root):
    from torch import nn

    from dpmix.data import load_splits, normalization

    train = load_splits(str(image_root)).train

    def trainer():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 2))
        plan = dpmix.PrivacyPlan.calibrate(
            n=80, expected_batch_size=20, epsilon=1, delta=1e-3, steps=4
        )
        views = dpmix.ViewBuilder(dpmix.ViewSpec("none"), 2, normalization("half", 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return dpmix.PrivateTrainer(
            model, train, plan=plan, views=views, optimizer=optimizer, seed=1
        )

    whole, first, second = trainer(), trainer(), trainer()
    for _ in range(4):
        whole.step()
    first.step()
    torch.rand(5)  # what else a program draws
    second.model.load_state_dict(first.model.state_dict())
    second.resume(first.state())
    while second.steps_done < 4:
        second.step()
    assert same(whole.model.state_dict(), second.model.state_dict())


def test_an_unseeded_run_draws_fresh_entropy_and_saves_none(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_bytes().lower()
            for word in (b"pcg64", b"bit_generator", b"mt19937", b"rng"):
                assert word not in text, (path, word)
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin)
    dpmix.fit(resume=folder)
    dpmix.fit(resume=twin)
    assert not same(weights(folder), weights(twin))


def test_the_statement_counts_the_planned_steps_and_says_that_the_run_went_on(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    before = statement(folder)
    assert (before["steps"], before["complete"], before["resumed_at"]) == (2, False, [])
    dpmix.fit(resume=folder)
    said = statement(folder)
    assert (said["steps"], said["complete"], said["resumed_at"]) == (STEPS, True, [3])
    assert said["run_id"] == before["run_id"]
    assert any("went on after step 3" in line for line in said["assumptions"])
    again = epsilon_pld(said["sampling_rate"], said["noise_multiplier"], STEPS, said["delta"])
    assert said["epsilon"] == pytest.approx(again)
    assert [line["step"] for line in without_time(folder)] == list(range(1, STEPS + 1))
    assert not (folder / "checkpoints").exists()
    assert is_complete(folder)


def test_a_torn_log_line_and_steps_that_were_lost_leave_no_trace(tmp_path, settings):
    folder = stopped(tmp_path / "run", 5, settings | {"checkpoint_every": None})
    with (folder / "diagnostics" / "steps.jsonl").open("a") as log:
        log.write('{"step": 6, "dra')
    dpmix.fit(resume=folder)
    assert [line["step"] for line in without_time(folder)] == list(range(1, STEPS + 1))


def test_stopped_between_the_last_checkpoint_and_the_last_save(tmp_path, settings, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(RunRecord, "save", stop)
        dpmix.fit(output=str(tmp_path / "run"), **settings | {"eval_every": STEPS})
    assert not is_complete(tmp_path / "run")
    result = dpmix.fit(resume=tmp_path / "run")
    assert statement(result.folder)["complete"]
    assert not (result.folder / "checkpoints").exists()


def test_stopped_before_the_first_step_it_goes_on_from_the_start(tmp_path, settings, monkeypatch):
    whole = dpmix.fit(output=str(tmp_path / "whole"), **settings)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(dpmix.PrivateTrainer, "step", stop)
        dpmix.fit(output=str(tmp_path / "run"), **settings)
    dpmix.fit(resume=tmp_path / "run")
    assert same(weights(whole.folder), weights(tmp_path / "run"))


@pytest.mark.parametrize("step", [0, 3])
def test_a_run_that_pretrains_goes_on_without_doing_it_twice(
    tmp_path, settings, public_root, step, monkeypatch
):
    settings |= {"pool": str(public_root), "pool_role": "pretrain", "pretrain_epochs": 2}
    whole = dpmix.fit(output=str(tmp_path / "whole"), **settings)
    if step:
        folder = stopped(tmp_path / "run", step, settings)
        monkeypatch.setattr("dpmix.training.pretrain.Pretraining.run", None)
    else:
        folder = tmp_path / "run"
        with monkeypatch.context() as patch, pytest.raises(StoppedError):
            patch.setattr(dpmix.PrivateTrainer, "step", stop)
            dpmix.fit(output=str(folder), **settings)
    dpmix.fit(resume=folder)
    assert same(weights(whole.folder), weights(folder))


def test_a_head_on_cached_features_goes_on(tmp_path, settings):
    settings = {k: v for k, v in settings.items() if k != "model"} | {
        "backbone": "scatternet", "cache_dir": str(tmp_path / "features"), "backbone_size": 16,
    }  # fmt: skip
    whole = dpmix.fit(output=str(tmp_path / "whole"), **settings)
    folder = stopped(tmp_path / "run", 3, settings)
    dpmix.fit(resume=folder)
    assert same(weights(whole.folder), weights(folder))


def damage(path):
    """One flipped bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def checkpoint_paths(folder):
    return sorted((folder / "checkpoints").iterdir(), reverse=True)


def test_damaged_checkpoints_are_passed_over_but_no_published_step_is_done_twice(
    tmp_path, settings
):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    newest, older = checkpoint_paths(folder)
    damage(newest)
    unsaid, back = tmp_path / "unsaid", tmp_path / "back"
    for twin in (unsaid, back):
        shutil.copytree(folder, twin)
    dpmix.fit(resume=folder)  # step 2 was published, and the older checkpoint is of step 2
    assert statement(folder)["resumed_at"] == [2]
    # Without the statement nothing tells that step 3 was not published.
    (unsaid / "privacy.json").unlink()
    with pytest.raises(DpmixError, match=r"does not say what was published.*twice"):
        dpmix.fit(resume=unsaid)
    older = back / "checkpoints" / older.name
    replace(Checkpoint.read(older), step=1).write(older.with_name("step-00000001.pt"))
    older.unlink()
    with pytest.raises(DpmixError, match=r"a model of step 2 was published.*released twice"):
        dpmix.fit(resume=back)


def states_in_save(monkeypatch, save, folder, into, settings):
    """Train; copy what a kill would leave at each rename or removal of the save of that number."""
    begun, real = [0], RunFolder.save

    def copying(original):
        def call(self, *args, **kwargs):
            shutil.copytree(folder, into / str(len(list(into.iterdir()))))
            return original(self, *args, **kwargs)

        return call

    def watched(self, **writers):
        begun[0] += 1
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "unlink", "rmdir") if begun[0] == save else ():
                patch.setattr(Path, name, copying(getattr(Path, name)))
            real(self, **writers)

    into.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", watched)
        dpmix.fit(output=str(folder), **settings)
    return sorted(into.iterdir())


@pytest.mark.parametrize(("save", "overwrites"), [(1, False), (1, True), (2, False)])
def test_killed_at_any_instant_of_a_save_it_goes_on(
    tmp_path, settings, save, overwrites, monkeypatch
):
    settings |= {"steps": save, "eval_every": 1, "method": "none", "seed": None}
    folder, seen = tmp_path / "run", set()
    if overwrites:
        dpmix.fit(output=str(folder), **settings)
    settings |= {"overwrite": overwrites}
    for state in states_in_save(monkeypatch, save, folder, tmp_path / "states", settings):
        model, said = state / "model.safetensors", state / "privacy.json"
        digest = sha256(model.read_bytes()).hexdigest() if model.exists() else None
        stated = statement(state)["weights_sha256"] if said.exists() else None
        seen.add("none" if digest is None else "own" if digest == stated else "older")
        _, checkpoint = rebuild_run(state)  # is not refused
        assert checkpoint.step == save
    assert {"own", "none" if save == 1 else "older"} <= seen


def test_a_model_without_its_statement_is_not_resumed(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    newer, earlier = tmp_path / "newer", tmp_path / "earlier"
    for twin in (newer, earlier):
        shutil.copytree(folder, twin)
    (folder / "privacy.json").rename(tmp_path / "privacy.json")
    with pytest.raises(
        DpmixError, match=r"model\.safetensors' is there, and '.*' does not say what"
    ):
        dpmix.fit(resume=folder)
    # The remedy helps.
    (tmp_path / "privacy.json").rename(folder / "privacy.json")
    dpmix.fit(resume=folder)
    # Nor if the model is gone as well: that of step 2 was published.
    for name in ("privacy.json", "model.safetensors"):
        (newer / name).unlink()
    with pytest.raises(DpmixError, match=r"a model of step 2 was published, and '.*' does not say"):
        dpmix.fit(resume=newer)
    # Nor with the statement of another run.
    other = stopped(tmp_path / "other", 3, settings | {"seed": None})
    shutil.copy(other / "privacy.json", earlier / "privacy.json")
    with pytest.raises(DpmixError, match="a model of step 2 was published"):
        dpmix.fit(resume=earlier)


@pytest.mark.parametrize("model", ["missing", "another"])
def test_a_statement_without_its_model_is_not_resumed(tmp_path, settings, model):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    path = folder / "model.safetensors"
    kept = path.read_bytes()
    path.unlink()
    if model == "another":
        path.write_bytes(kept + b" ")
    with pytest.raises(DpmixError, match=r"is of step 2, and '.*' is not its model: later steps"):
        dpmix.fit(resume=folder)
    path.write_bytes(kept)
    dpmix.fit(resume=folder)
    path.unlink()
    with pytest.raises(DpmixError, match=r"is complete, but '.*model\.safetensors' is missing"):
        dpmix.fit(resume=folder)


def test_a_damaged_checkpoint_never_outlives_a_good_one(tmp_path, settings):
    folder = stopped(tmp_path / "run", 4, settings | {"seed": None, "eval_every": 3})
    damage(checkpoint_paths(folder)[0])
    with pytest.raises(StoppedError):
        dpmix.fit(resume=folder, keep_checkpoints=1, report=lambda _: stop())
    assert [path.name for path in checkpoint_paths(folder)] == ["step-00000004.pt"]
    assert dpmix.fit(resume=folder).plan.steps == STEPS


def test_a_run_that_another_process_went_on_with_meanwhile_is_left_alone(tmp_path, settings):
    folder = stopped(tmp_path / "run", 2, settings | {"seed": None})
    late_parts, late = rebuild_run(folder)
    with pytest.raises(StoppedError):
        dpmix.fit(resume=folder, report=lambda now: now.step == 5 and stop())
    before = without_time(folder)
    with pytest.raises(DpmixError, match="another process went on with the run"):
        run(late_parts, checkpoint=late)
    assert without_time(folder) == before
    dpmix.fit(resume=folder)
    assert statement(folder)["resumed_at"] == [2, 5]


def test_every_flipped_bit_of_a_checkpoint_is_noticed(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings)
    path = checkpoint_paths(folder)[0]
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(50):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(DpmixError, match="damaged or none"):
            Checkpoint.read(path)
    path.write_bytes(whole[:20])
    with pytest.raises(DpmixError, match="damaged or none"):
        Checkpoint.read(path)


def test_a_complete_run_stays_complete_whatever_is_left_of_its_checkpoints(tmp_path, settings):
    result = dpmix.fit(output=str(tmp_path / "run"), **settings)
    (result.folder / "checkpoints").mkdir()
    assert is_complete(result.folder) and is_complete(result.folder, epsilon=2.0)
    with pytest.raises(DpmixError, match=r"its epsilon is 8.0 and was 2.0"):
        is_complete(result.folder, epsilon=8.0)
    with pytest.raises(DpmixError, match="is complete: there is nothing left to do"):
        dpmix.fit(resume=result.folder)


def test_ctrl_c_keeps_the_step_that_it_ends(tmp_path, settings):
    def press(now):
        if now.step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        dpmix.fit(
            output=str(tmp_path / "run"), report=press,
            **settings | {"checkpoint_every": None, "eval_every": 6},
        )  # fmt: skip
    assert checkpoint_paths(tmp_path / "run")[0].name == "step-00000004.pt"
    dpmix.fit(resume=tmp_path / "run")


@pytest.mark.parametrize(("changes", "said"), [
    ({"epsilon": 8.0}, "its epsilon is 8.0 and was 2.0"),
    ({"steps": 100}, "its steps is 100 and was 6"),
    ({"seed": 8}, "its seed is 8 and was 7"),
    ({"model": "wrn-16-4"}, "its model is wrn-16-4 and was cnn-small"),
    ({"method": "none"}, "its method is none and was mix-self"),
    ({"extra_augment": "blur"}, "its extra_augment is blur and was none"),
    ({"train_images": 60}, "its train_images is 60 and was not given"),
    ({"classes": 2}, "its classes is 2 and was not given"),
    ({"validation_fraction": 0.2}, "its validation_fraction is 0.2 and was not given"),
])  # fmt: skip
def test_changed_settings_are_refused_by_name(tmp_path, settings, changes, said):
    folder = stopped(tmp_path / "run", 1, settings)
    with pytest.raises(DpmixError, match=said):
        dpmix.fit(resume=folder, **changes)


def test_where_and_how_may_change(tmp_path, settings, image_root):
    folder = stopped(tmp_path / "run", 3, settings)
    moved = tmp_path / "moved"
    shutil.move(image_root, moved)
    with pytest.raises(DpmixError, match="no file or folder"):
        dpmix.fit(resume=folder)
    dpmix.fit(resume=folder, data=str(moved), view_chunk=2, engine="vectorized", workers=1)
    assert statement(folder)["complete"]


def test_other_data_are_refused(tmp_path, settings, image_root):
    folder = stopped(tmp_path / "run", 3, settings)
    one = next((image_root / "train" / "disc").iterdir())
    kept = one.read_bytes()
    other = next((image_root / "train" / "stripes").iterdir())
    one.write_bytes(other.read_bytes())
    with pytest.raises(DpmixError, match="the images or labels of 'images' changed"):
        dpmix.fit(resume=folder)
    one.write_bytes(kept)
    (folder / "diagnostics" / "data.sha256").unlink()
    with pytest.raises(DpmixError, match="restore the run's diagnostics"):
        dpmix.fit(resume=folder)


def test_another_pool_is_refused(tmp_path, settings, public_root):
    settings |= {"method": "mix-diff", "pool": str(public_root)}
    folder = stopped(tmp_path / "run", 3, settings)
    next((public_root / "disc").iterdir()).unlink()
    with pytest.raises(DpmixError, match="its pool's images is"):
        dpmix.fit(resume=folder)


def test_what_is_no_stopped_run_is_refused(tmp_path, settings):
    with pytest.raises(DpmixError, match="is no run folder"):
        dpmix.fit(resume=tmp_path)
    folder = stopped(tmp_path / "run", 3, settings)
    shutil.rmtree(folder / "checkpoints")
    with pytest.raises(DpmixError, match="no checkpoint in"):
        dpmix.fit(resume=folder)


def test_a_run_that_overwrites_another_goes_on_with_its_own_log_and_keeps_the_others_model(
    tmp_path, settings
):
    dpmix.fit(output=str(tmp_path / "run"), **settings)
    old = weights(tmp_path / "run")
    folder = stopped(tmp_path / "run", 1, settings | {"overwrite": True, "seed": 3})
    assert same(old, weights(folder))
    result = dpmix.fit(resume=folder)
    assert not same(old, weights(folder))
    assert len(without_time(folder)) == STEPS
    assert not (folder / "previous").exists()
    assert statement(folder)["seeded"] and result.config.run.seed == 3


def test_two_cannot_go_on_with_one_run(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings)
    parts, checkpoint = rebuild_run(folder)
    holder = RunFolder(folder)
    holder.reopen(checkpoint.run_id)
    with pytest.raises(DpmixError, match="in use by another run"):
        run(parts, checkpoint=checkpoint)
    holder.close()
    run(parts, checkpoint=checkpoint)


def test_a_checkpoint_holds_nothing_computed_without_noise(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    private = (folder / "diagnostics" / "data.sha256").read_text().split()
    losses = [line["loss"] for line in without_time(folder)]
    for path in (folder / "checkpoints").iterdir():
        held = vars(Checkpoint.read(path))
        assert set(held) == {
            "run_id", "config", "plan", "ranks", "pool_sha256", "step", "resumed_at",
            "weights", "optimizer", "schedule", "ema", "history",
        }  # fmt: skip
        text = repr({k: v for k, v in held.items() if k not in ("weights", "optimizer", "ema")})
        assert not any(hash_ in text for hash_ in private)
        assert not any(repr(loss) in text for loss in losses)


def kill_at(instant, command):
    """Run `command`, killed after `instant` seconds; whether it ended before that."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(instant)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), errors.decode()
    return process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [None, 7])
def test_killed_at_random_instants_it_ends_with_the_planned_steps(tmp_path, settings, seed):
    """Twenty kills by SIGKILL, anywhere from the imports to the last write."""
    settings |= {"steps": 400, "eval_every": 3, "seed": seed, "method": "self-aug"}
    flags = [
        part for name, value in settings.items() if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]  # fmt: skip
    command = [sys.executable, "-m", "dpmix", "train"]
    folder = tmp_path / "run"
    begin = [*command, *flags, "--output", str(folder)]
    rng, kills, most = random.Random(0), 0, 0
    start = time.monotonic()
    assert kill_at(1000, [*command, *flags, "--output", str(tmp_path / "whole")])
    duration = time.monotonic() - start
    done = False
    while not done:
        going_on = (folder / "checkpoints").is_dir()
        instant = rng.uniform(0.5, 1.2) * (3.0 + duration / 20) if kills < 20 else 1000
        done = kill_at(instant, [*command, "--resume", str(folder)] if going_on else begin)
        kills += not done
        if (folder / "privacy.json").is_file():
            said = statement(folder)
            assert said["steps"] >= most, "what was published is never taken back"
            most = said["steps"]
        assert kills < 60
    assert kills >= 20
    said = statement(folder)
    assert said["complete"] and said["steps"] == 400
    assert said["resumed_at"] == sorted(said["resumed_at"])
    again = epsilon_pld(said["sampling_rate"], said["noise_multiplier"], 400, said["delta"])
    assert said["epsilon"] == pytest.approx(again)
    assert [line["step"] for line in without_time(folder)] == list(range(1, 401))
    assert same(weights(folder), weights(tmp_path / "whole")) == (seed is not None)
    assert np.isfinite(said["epsilon"])
