"""A stopped run is resumed as if it had not been stopped, or refused with the reason."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import dpmix
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_pld
from dpmix.reports.files import ModelFile
from dpmix.runs.checkpoint import Checkpoint
from dpmix.runs.fit import train_run
from dpmix.runs.folder import RunFolder
from dpmix.runs.resume import is_complete, rebuild_run

pytestmark = pytest.mark.usefixtures("plain_pages")

STEPS = 6


class StoppedError(Exception):
    """The run is stopped here."""


def stop(*_):
    """Take the place of whatever is to fail."""
    raise StoppedError


@pytest.fixture
def settings(image_root, tmp_path, quick):
    return quick | {
        "cache_dir": str(tmp_path / "features"),
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


def stated(folder):
    return ModelFile(folder / "model.safetensors").statement


def without_time(folder):
    lines = (folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def checkpoint_paths(folder):
    return sorted((folder / "checkpoints").iterdir(), reverse=True)


def damage(path):
    """One flipped bit."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("step", "changes"), [
    (5, {"optimizer": "Adam", "learning_rate": 0.01, "schedule": "cosine"}),
    (3, {"method": "microbatch-mixup"}),
    (3, {"model": None, "backbone": "scatternet", "backbone_size": 16}),  # on cached features
    (3, {"model": "scatter-cnn", "backbone_size": 16}),  # on cached maps
])  # fmt: skip
def test_a_seeded_run_that_was_stopped_ends_bit_identical(tmp_path, settings, step, changes):
    settings |= changes
    whole = dpmix.fit(output=str(tmp_path / "whole"), **settings)
    folder = stopped(tmp_path / "run", step, settings)
    result = dpmix.fit(resume=folder)
    assert same(weights(whole.folder), weights(folder))
    assert result.evaluation == whole.evaluation
    assert without_time(folder) == without_time(whole.folder)
    curves = [json.loads((place / "metrics.json").read_text())["curve"]
              for place in (folder, whole.folder)]  # fmt: skip
    assert curves[0] == curves[1]


def test_an_unseeded_run_draws_fresh_entropy_and_saves_none(tmp_path, settings):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    for path in folder.rglob("*"):
        if path.is_file():
            text = path.read_bytes().lower()
            # No word of three letters: the bytes of weights can spell one by chance.
            for word in (b"pcg64", b"bit_generator", b"mt19937", b"_rng", b"rng_state"):
                assert word not in text, (path, word)
    # Nor anything that was computed from private data without noise.
    private = (folder / "diagnostics" / "data.sha256").read_text().split()
    private += [repr(line["loss"]) for line in without_time(folder)]
    for path in checkpoint_paths(folder):
        held = vars(Checkpoint.read(path))
        text = repr({k: v for k, v in held.items() if k not in ("weights", "optimizer", "ema")})
        assert not any(value in text for value in private)
    twin = shutil.copytree(folder, tmp_path / "twin")
    before = stated(folder)
    assert (before.steps, before.complete, before.resumed_at) == (2, False, [])
    dpmix.fit(resume=folder)
    dpmix.fit(resume=twin)
    assert not same(weights(folder), weights(twin))
    # Its statement counts the planned steps, and says that the run was resumed.
    after = stated(folder)
    assert (after.steps, after.complete, after.resumed_at) == (STEPS, True, [3])
    assert after.run_id == before.run_id
    assert any("resumed after step 3" in line for line in after.assumptions)
    again = epsilon_pld(after.sampling_rate, after.noise_multiplier, STEPS, after.delta)
    assert after.epsilon == pytest.approx(again)
    assert not (folder / "checkpoints").exists() and is_complete(folder)


@pytest.mark.parametrize(("what", "changes"), [
    ((RunFolder, "publish"), {"eval_every": STEPS}),  # after the last checkpoint
    # Before the first step.
    ((dpmix.PrivateTrainer, "step"), {"pool_role": "pretrain", "pretrain_epochs": 2}),
])  # fmt: skip
def test_stopped_at_either_end(tmp_path, settings, public_root, monkeypatch, what, changes):
    settings |= changes
    if "pool_role" in changes:
        settings["pool"] = str(public_root)
    whole = dpmix.fit(output=str(tmp_path / "whole"), **settings)
    with monkeypatch.context() as patch, pytest.raises(StoppedError):
        patch.setattr(*what, stop)
        dpmix.fit(output=str(tmp_path / "run"), **settings)
    assert not is_complete(tmp_path / "run")
    dpmix.fit(resume=tmp_path / "run")
    assert is_complete(tmp_path / "run")
    assert same(weights(whole.folder), weights(tmp_path / "run"))


def test_damaged_checkpoints_are_passed_over_but_no_published_step_is_done_twice(
    tmp_path, settings
):
    folder = stopped(tmp_path / "run", 3, settings | {"seed": None})
    newest, older = checkpoint_paths(folder)
    damage(newest)
    lost, back = (shutil.copytree(folder, tmp_path / name) for name in ("lost", "back"))
    dpmix.fit(resume=folder)  # step 2 was published, and the older checkpoint is of step 2
    assert stated(folder).resumed_at == [2]
    # Without the model nothing tells that step 3 was not published.
    (lost / "model.safetensors").unlink()
    with pytest.raises(DpmixError, match=r"is of step 2 and .* is missing.*twice"):
        dpmix.fit(resume=lost)
    older = back / "checkpoints" / older.name
    replace(Checkpoint.read(older), step=1).write(older.with_name("step-00000001.pt"))
    older.unlink()
    with pytest.raises(DpmixError, match=r"is of step 1 and .* is of step 2.*released twice"):
        dpmix.fit(resume=back)


@pytest.mark.parametrize(("model", "said"), [
    ("missing", "is of step 5 and '.*' is missing"),
    ("older", "is of step 5 and '.*' is of step 2"),
    ("of another run", "is of another run"),
    ("damaged", "cannot read the privacy statement of"),
])  # fmt: skip
def test_a_model_that_is_not_the_last_one_is_not_resumed(tmp_path, settings, model, said):
    settings |= {"seed": None, "method": "none"}
    folder = tmp_path / "run"
    path, older, kept = folder / "model.safetensors", tmp_path / "older", tmp_path / "kept"

    def report(now):
        if now.step == 3:
            shutil.copy(path, older)
        if now.step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        dpmix.fit(output=str(folder), report=report, **settings)
    path.rename(kept)
    if model == "older":
        shutil.copy(older, path)
    elif model == "damaged":
        path.write_bytes(kept.read_bytes()[:100])
    elif model == "of another run":
        shutil.copy(stopped(tmp_path / "other", 5, settings) / path.name, path)
    with pytest.raises(DpmixError, match=said):
        dpmix.fit(resume=folder)
    kept.replace(path)  # the remedy helps
    dpmix.fit(resume=folder)
    path.unlink()
    with pytest.raises(DpmixError, match="no checkpoint in"):
        dpmix.fit(resume=folder)


def states_while_publishing(monkeypatch, time, folder, into, settings):
    """Train; copy what a kill would leave at each change to the files while it publishes."""
    begun, real = [0], RunFolder.publish

    def copying(original):
        def call(*args, **kwargs):
            target = into / str(len(list(into.iterdir()))) / "run"
            with monkeypatch.context() as patch:
                for name in names:
                    patch.setattr(os, name, originals[name])
                shutil.copytree(folder, target)
            return original(*args, **kwargs)

        return call

    names = ("replace", "unlink")
    originals = {name: getattr(os, name) for name in names}

    def watched(self, *args):
        begun[0] += 1
        with pytest.MonkeyPatch.context() as patch:
            for name in names if begun[0] == time else ():
                patch.setattr(os, name, copying(originals[name]))
            real(self, *args)

    into.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "publish", watched)
        dpmix.fit(output=str(folder), **settings)
    return [path / "run" for path in sorted(into.iterdir())]


@pytest.mark.parametrize(("time", "overwrites"), [(1, False), (1, True), (2, False)])
def test_killed_at_any_instant_of_publishing_it_is_resumed(
    tmp_path, settings, time, overwrites, monkeypatch
):
    settings |= {"steps": time, "eval_every": 1, "method": "none", "seed": None}
    folder, seen = tmp_path / "run", set()
    if overwrites:
        dpmix.fit(output=str(folder), **settings)
    settings |= {"overwrite": overwrites}
    for state in states_while_publishing(monkeypatch, time, folder, tmp_path / "at", settings):
        _, checkpoint = rebuild_run(state)  # is not refused
        assert checkpoint.step == time
        there = (state / "model.safetensors").exists()
        own = there and stated(state).run_id == checkpoint.run_id
        assert there or not overwrites
        seen.add(stated(state).steps if own else 0)
    assert seen == {time - 1, time}


def test_a_damaged_checkpoint_never_outlives_a_good_one(tmp_path, settings):
    folder = stopped(tmp_path / "run", 4, settings | {"seed": None, "eval_every": 3})
    damage(checkpoint_paths(folder)[0])
    with pytest.raises(StoppedError):
        dpmix.fit(resume=folder, keep_checkpoints=1, report=lambda _: stop())
    assert [path.name for path in checkpoint_paths(folder)] == ["step-00000004.pt"]


def test_a_run_that_another_process_resumed_meanwhile_is_left_alone(tmp_path, settings):
    folder = stopped(tmp_path / "run", 2, settings | {"seed": None})
    late_run, late = rebuild_run(folder)
    holder = RunFolder(folder)
    holder.reopen()
    with pytest.raises(DpmixError, match="in use by another process"):
        train_run(late_run, checkpoint=late)
    holder.close()
    with pytest.raises(StoppedError):
        dpmix.fit(resume=folder, report=lambda now: now.step == 5 and stop())
    before = without_time(folder)
    with pytest.raises(DpmixError, match="another process resumed the run"):
        train_run(late_run, checkpoint=late)
    assert without_time(folder) == before
    dpmix.fit(resume=folder)
    assert stated(folder).resumed_at == [2, 5]


def test_a_complete_run_stays_complete_whatever_is_left_of_its_checkpoints(tmp_path, settings):
    result = dpmix.fit(output=str(tmp_path / "run"), **settings)
    (result.folder / "checkpoints").mkdir()
    assert is_complete(result.folder) and is_complete(result.folder, epsilon=2.0)
    with pytest.raises(DpmixError, match=r"its epsilon is 8.0 and was 2.0"):
        is_complete(result.folder, epsilon=8.0)
    with pytest.raises(DpmixError, match="is complete: there is nothing left to do"):
        dpmix.fit(resume=result.folder)


def test_changed_settings_and_inputs_are_refused_by_name(
    tmp_path, settings, image_root, public_root
):
    folder = stopped(
        tmp_path / "run", 1, settings | {"method": "mix-diff", "pool": str(public_root)}
    )
    for changes, said in (
        ({"epsilon": 8.0}, "its epsilon is 8.0 and was 2.0"),
        ({"seed": 8}, "its seed is 8 and was 7"),
        ({"train_images": 60}, "its train_images is 60 and was not given"),
        ({"engine": "bookkeeping"}, "its engine is bookkeeping and was auto"),
    ):
        with pytest.raises(DpmixError, match=said):
            dpmix.fit(resume=folder, **changes)
    one, other = (next((image_root / "train" / name).iterdir()) for name in ("disc", "stripes"))
    kept = one.read_bytes()
    one.write_bytes(other.read_bytes())
    with pytest.raises(DpmixError, match="the images or labels of 'images' are not those"):
        dpmix.fit(resume=folder)
    one.write_bytes(kept)
    next((public_root / "disc").iterdir()).unlink()
    with pytest.raises(DpmixError, match="its pool's images is"):
        dpmix.fit(resume=folder)


def test_where_and_how_may_change(tmp_path, settings, image_root):
    folder = stopped(tmp_path / "run", 3, settings)
    moved = str(shutil.move(image_root, tmp_path / "moved"))
    with pytest.raises(DpmixError, match="no folder or"):
        dpmix.fit(resume=folder)
    dpmix.fit(resume=folder, data=moved, view_chunk=2, engine="vectorized", workers=1)
    assert stated(folder).complete


def test_a_stopped_overwrite_keeps_the_other_model_until_it_has_one(tmp_path, settings):
    settings |= {"eval_every": 6}
    dpmix.fit(output=str(tmp_path / "run"), **settings)
    old = weights(tmp_path / "run")
    folder = stopped(tmp_path / "run", 3, settings | {"overwrite": True, "seed": 3})
    assert same(old, weights(folder)) and not is_complete(folder)
    damage(checkpoint_paths(folder)[0])
    with pytest.raises(DpmixError, match=r"is of step 2 and .* is of another run.*twice"):
        dpmix.fit(resume=folder)
    checkpoint_paths(folder)[0].unlink()
    result = dpmix.fit(resume=folder)
    assert not same(old, weights(folder)) and result.config.run.seed == 3
    assert len(without_time(folder)) == STEPS


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
        resumes = (folder / "checkpoints").is_dir()
        instant = rng.uniform(0.5, 1.2) * (3.0 + duration / 20) if kills < 20 else 1000
        done = kill_at(instant, [*command, "--resume", str(folder)] if resumes else begin)
        kills += not done
        if (folder / "model.safetensors").is_file():
            assert stated(folder).steps >= most, "what was published is never taken back"
            most = stated(folder).steps
        assert kills < 60
    assert kills >= 20
    last = stated(folder)
    assert last.complete and last.steps == 400
    assert last.resumed_at == sorted(last.resumed_at)
    again = epsilon_pld(last.sampling_rate, last.noise_multiplier, 400, last.delta)
    assert last.epsilon == pytest.approx(again)
    assert [line["step"] for line in without_time(folder)] == list(range(1, 401))
    assert same(weights(folder), weights(tmp_path / "whole")) == (seed is not None)


def test_a_torn_log_line_and_steps_that_were_lost_leave_no_trace(tmp_path, settings):
    folder = stopped(tmp_path / "run", 5, settings | {"checkpoint_every": None})
    with (folder / "diagnostics" / "steps.jsonl").open("a") as log:
        log.write('{"step": 6, "dra')
    dpmix.fit(resume=folder)
    assert [line["step"] for line in without_time(folder)] == list(range(1, STEPS + 1))


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
