import json

import pytest
from dpmix.runs.hub_classifier import HubClassifier
from dpmix.runs.hub_folder import network_settings

from dpmix.errors import DpmixError
from dpmix.runs.config import Config

CONFIG = Config.of({
    "data": {"data": "/secret/scans", "normalization": "half", "data_root": "/secret/root"},
    "views": {"pool": "/secret/pool"},
    "model": {"backbone": "scatternet", "backbone_weights": "/secret/weights"},
    "features": {"cache_dir": "/secret/cache"},
    "run": {"output": "/secret/run"},
    "input": {"image_shape": (3, 12, 12), "class_names": ("a", "b"), "backbone_sha256": "0" * 64},
})  # fmt: skip


def test_settings_of_a_network_name_no_place():
    settings = network_settings(CONFIG)
    assert "/" not in json.dumps(settings)
    assert Config.of(settings).model.backbone == "scatternet"
    assert Config.of(settings).input == CONFIG.input


def test_another_backbone_than_the_runs_is_refused():
    said = "backbone 'scatternet' here are not those that the run of 'config.json'"
    with pytest.raises(DpmixError, match=said):
        HubClassifier(network_settings(CONFIG))


def test_settings_that_no_run_wrote_are_refused():
    with pytest.raises(DpmixError, match=r"'config.json' has no section 'input'"):
        HubClassifier({"model": {"model": "cnn-small"}})


def made(tmp_path):
    settings = network_settings(CONFIG) | {"model": {"model": "cnn-small"}}
    (tmp_path / "config.json").write_text(json.dumps({"settings": settings}))
    return settings


def test_no_pickle_is_read(tmp_path):
    made(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(DpmixError, match=r"no weights at .*model.safetensors"):
        HubClassifier.from_pretrained(tmp_path)


def test_a_copy_without_its_statement_is_refused(tmp_path):
    model = HubClassifier(made(tmp_path))
    with pytest.raises(DpmixError, match="a private model goes with its statement"):
        model.save_pretrained(tmp_path / "copy")
