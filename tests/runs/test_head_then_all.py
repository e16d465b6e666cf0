"""Runs that train a head first and then all weights: one plan, one record, resumed anywhere."""

import json

import pytest
import torch
from safetensors.torch import load_file

import dpmix
from dpmix.audit.audit import refuse_unfit
from dpmix.errors import DpmixError
from dpmix.reports.files import ModelFile
from dpmix.reports.verify import verify
from dpmix.runs.build import build_run
from dpmix.runs.config import Config
from dpmix.runs.estimate import estimate_rows
from dpmix.runs.fit import smoke_run
from dpmix.runs.load import load_run
from dpmix.training.distributed import ALONE

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.usefixtures("plain_pages")
HEAD = {"head.linear.weight", "head.linear.bias"}


@pytest.fixture
def settings(image_root, tmp_path, quick):
    torch.manual_seed(0)
    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), weights)
    return {name: value for name, value in quick.items() if name != "model"} | {
        "backbone": "timm:test_vit", "backbone_weights": str(weights), "backbone_size": 32,
        "trainable": "head-then-all", "data": str(image_root), "steps": 4, "eval_every": 1,
        "checkpoint_every": 1, "device": "cpu", "seed": 7, "ema_decay": 0.5,
        "engine": "examplewise", "output": str(tmp_path / "run"),
    }  # fmt: skip


class StoppedError(Exception):
    """The run is stopped here."""


def stopped(step, **settings):
    def stop(now):
        if now.step == step:
            raise StoppedError

    with pytest.raises(StoppedError):
        dpmix.fit(report=stop, **settings)


def test_the_backbone_is_public_until_half_of_the_steps_are_done(settings, tmp_path):
    start = build_run(Config.load(**settings)).model.state_dict()
    found = []

    def look(now):
        now_held = load_file(tmp_path / "run" / "model.safetensors")
        found.append({name for name, t in now_held.items() if not torch.equal(t, start[name])})

    result = dpmix.fit(report=look, **settings)
    assert found[:2] == [HEAD, HEAD]
    assert all(len(names) > 20 and names > HEAD for names in found[2:])
    assert result.config.model.head_steps == 2


def test_the_guarantee_is_that_of_the_steps_and_says_how_they_were_split(settings, tmp_path):
    changes = {"seed": None, "head_steps": 3}
    result = dpmix.fit(**settings | changes)
    statement = verify(result.folder).statement
    assert statement.public_inputs.backbone.trained_privately == "head for 3 steps, then all"
    assert "head for 3 steps, then all" in (result.folder / "MODEL_CARD.md").read_text()
    of_all = build_run(Config.load(**settings | {"trainable": "all", "output": None}), trial=True)
    assert statement.epsilon == of_all.plan.epsilon
    assert statement.noise_multiplier == of_all.plan.noise_multiplier
    # The file rebuilds the model of the last average.
    saved = load_run(result.folder, device="cpu").model.state_dict()
    assert all(torch.equal(saved[name], value) for name, value in result.model.state_dict().items())


@pytest.mark.parametrize(("optimizer", "step"), [("SGD", 1), ("Adam", 2), ("SGD", 3)])
def test_a_run_that_was_stopped_in_either_phase_ends_bit_identical(
    settings, tmp_path, step, optimizer
):
    settings |= {"optimizer": optimizer, "schedule": "cosine"}
    whole = dpmix.fit(**settings | {"output": str(tmp_path / "whole")})
    stopped(step, **settings)
    assert ModelFile(tmp_path / "run" / "model.safetensors").statement.steps == step
    result = dpmix.fit(resume=tmp_path / "run")
    ends = [load_file(folder / "model.safetensors") for folder in (whole.folder, result.folder)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert result.evaluation == whole.evaluation
    curves = [json.loads((folder / "metrics.json").read_text())["curve"]
              for folder in (whole.folder, result.folder)]  # fmt: skip
    assert curves[0] == curves[1]
    with pytest.raises(DpmixError, match="complete"):
        dpmix.fit(resume=tmp_path / "run")


def test_the_split_can_not_change_when_a_run_is_resumed(settings, tmp_path):
    stopped(1, **settings)
    with pytest.raises(DpmixError, match="its head_steps is 3 and was 2"):
        dpmix.fit(resume=tmp_path / "run", head_steps=3)


def test_a_dry_run_shows_both_costs(settings, monkeypatch):
    monkeypatch.setattr("dpmix.runs.estimate._faster", lambda *_: "")  # it takes a minute
    rows = dict(estimate_rows(build_run(Config.load(**settings), trial=True)))
    assert "head-then-all" in rows["trained"]
    assert "s a step for 2 steps, then" in rows["time"]
    with smoke_run(Config.load(**settings | {"head_steps": 3}), ALONE) as run:
        assert run.config.model.head_steps == 1


@pytest.mark.parametrize(("changes", "message"), [
    ({"head_steps": 5}, "head_steps is 5; expected 0 to 4"),
    ({"head_steps": 2, "trainable": "all"}, "head_steps is 2, which --trainable all has no use"),
])  # fmt: skip
def test_a_split_that_can_not_be_meant_is_refused(settings, tmp_path, changes, message):
    with pytest.raises(DpmixError, match=message):
        dpmix.fit(**settings | changes)
    assert not (tmp_path / "run").exists()


def test_an_audit_follows_one_set_of_weights(settings):
    run = build_run(Config.load(**settings | {"seed": None}))
    with pytest.raises(DpmixError, match="audit --trainable head and --trainable all"):
        refuse_unfit(run)
