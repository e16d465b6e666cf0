"""Heads that start from public knowledge, through whole runs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dpmix
from dpmix.errors import DpmixError
from dpmix.reports.verify import verify
from dpmix.runs.config import Config
from dpmix.runs.load import load_run
from dpmix.runs.settings import ModelConfig
from dpmix.runs.start import require_start
from pictures import write_class_folders


@pytest.fixture
def settings(image_root, tmp_path):
    pool = write_class_folders(tmp_path / "pool", 30, np.random.default_rng(9))
    return {
        "data": str(image_root), "backbone": "scatternet", "backbone_size": 16, "k_base": 2,
        "cache_views": 2, "steps": 2, "epsilon": 1, "delta": 1e-3, "seed": 3, "pool": str(pool),
        "cache_dir": str(tmp_path / "features"), "output": str(tmp_path / "run"),
    }  # fmt: skip


def test_a_run_starts_where_its_pool_ends(settings, tmp_path):
    result = dpmix.fit(**settings)
    curve = json.loads((tmp_path / "run/metrics.json").read_text())["curve"]
    assert result.config.model.head_start == "pool" and result.start_score > 0.9
    assert curve[0] == {"step": 0, "epsilon": 0.0, "score": result.start_score}
    zero = dpmix.fit(**settings | {
        "head_start": "zero", "output": str(tmp_path / "zero"), "method": "mix-diff", "k_self": 2,
        "cache_views": None,
    })  # fmt: skip
    assert zero.start_score == 0.5


def test_no_step_publishes_the_start_with_epsilon_zero(settings, tmp_path):
    result = dpmix.fit(**settings | {"steps": 0})
    assert result.plan.epsilon == 0 and result.evaluation.accuracy == result.start_score > 0.9
    other = dpmix.fit(**settings | {"output": str(tmp_path / "other")})
    assert other.start_score == result.start_score
    verify(result.folder)
    statement = json.loads((result.folder / "privacy.json").read_text())
    assert statement["epsilon"] == statement["steps"] == statement["planned_steps"] == 0
    for name, weight in load_run(result.folder).model.head.state_dict().items():
        assert torch.equal(weight, result.model.head.state_dict()[name])
    with pytest.raises(DpmixError, match="starts untrained"):
        dpmix.fit(**settings | {"steps": 0, "head_start": "zero", "pool": None, "output": None})


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_run_ends_as_it_would_have(settings, tmp_path, stopped):
    whole = dpmix.fit(**settings)

    def stop(progress):
        if progress.step > stopped:
            raise KeyboardInterrupt

    other = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        dpmix.fit(**settings | {"output": str(other), "checkpoint_every": stopped + 1}, report=stop)
    resumed = dpmix.fit(resume=other)
    ends = [load_file(folder / "model.safetensors") for folder in (whole.folder, other)]
    assert all((ends[0][name] == ends[1][name]).all() for name in ends[0])
    assert resumed.start_score == whole.start_score


def test_the_whole_network_can_train_from_the_start(settings, image_root, tmp_path):
    timm = pytest.importorskip("timm")
    weights = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_vit", num_classes=5).state_dict(), weights)
    result = dpmix.fit(**settings | {
        "backbone": "timm:test_vit", "backbone_weights": str(weights), "backbone_size": 32,
        "trainable": "norm-and-bias", "cache_views": None, "expected_batch_size": 8,
    })  # fmt: skip
    assert result.start_score > 0.8 and result.config.model.head_start == "pool"


@pytest.mark.parametrize(("change", "message"), [
    ({"head_start": "text", "pool": None}, "backbone 'scatternet' has no text tower; use an open_"),
    ({"head_start": "pool", "pool": None}, "head_start pool needs public images; give --pool"),
    ({"head_start": "zero"}, "method self-aug reads no public pool; .*--head-start pool"),
    ({"head_start": "text", "text_templates": ("a photo",)}, "has no {class}"),
    ({"text_templates": ("photo",)}, "text_templates is 'photo', which head_start pool has no use"),
    ({"pool_unmapped": "unlabelled", "head_start": "pool", "pool_labels": "MAP"},
     "labelled images of 0 classes; expected two"),
])  # fmt: skip
def test_a_start_that_is_not_there_is_refused(settings, tmp_path, change, message):
    (tmp_path / "map.csv").write_text("pool_class,class\n")
    if "pool_labels" in change:
        for name in ("disc", "stripes"):
            (tmp_path / "pool" / name).rename(tmp_path / "pool" / f"no-{name}")
        change = change | {"pool_labels": str(tmp_path / "map.csv")}
    with pytest.raises(DpmixError, match=message):
        dpmix.fit(**settings | change)


def test_a_pool_without_some_classes_is_said(settings, tmp_path):
    for picture in (tmp_path / "pool/disc").iterdir():
        picture.unlink()
    (tmp_path / "pool/disc").rmdir()
    with pytest.raises(DpmixError, match="labelled images of 1 class; expected two"):
        dpmix.fit(**settings | {"head_start": "pool"})
    result = dpmix.fit(**settings | {"method": "mix-diff", "k_self": 2, "cache_views": None})
    assert result.config.model.head_start == "zero"


def test_a_pool_that_lacks_a_class_is_the_start_only_if_asked_for():
    """From such a start training ended below one from zero (docs/results/starts.md)."""
    names, chosen = ("ant", "bee", "cow"), ModelConfig(backbone="scatternet", head_start="pool")
    config = Config(model=chosen)
    with pytest.warns(UserWarning, match="no image of 1 of 3 classes, so the head starts at zero"):
        found = require_start(config, ModelConfig(), names, labelled=2)
    assert found.model.head_start == "zero"
    assert require_start(config, chosen, names, labelled=2).model.head_start == "pool"
    assert require_start(config, ModelConfig(), names, labelled=3).model.head_start == "pool"
