"""An audit counts for the run whose settings it audited, wherever that was."""

import json

import pytest

from dpmix.audit.audit import audit_of
from dpmix.errors import DpmixError
from dpmix.runs.config import Config
from dpmix.runs.folder import RunFolder
from example_audit import audit_of_run
from example_facts import facts, write_run


def config_of(run):
    return Config.model_validate(run.settings)


@pytest.fixture
def folder(tmp_path):
    return RunFolder(write_run(tmp_path / "run", data="/here/scans"))


def found(folder, said):
    folder.audit.write_text(json.dumps(said))
    made = facts(data="/here/scans")
    return audit_of(folder, config_of(made), made.statement)


def changed(said, section, **fields):
    settings = said["settings"]
    return said | {"settings": settings | {section: settings[section] | fields}}


def test_there_need_be_none(folder):
    made = facts()
    assert audit_of(folder, config_of(made), made.statement) is None


def test_an_audit_of_the_same_settings_counts_wherever_the_data_lay(folder):
    said = audit_of_run(folder.root)
    assert found(folder, said).two_worlds == 1.2
    assert found(folder, changed(said, "data", workers=3)).runs == 1
    sigma = said["plan"]["noise_multiplier"] * (1 + 4e-4)
    assert found(folder, said | {"plan": said["plan"] | {"noise_multiplier": sigma}})


@pytest.mark.parametrize(("section", "name", "value"), [
    ("data", "data", "cifar10"), ("data", "image_size", 16), ("views", "method", "self-aug"),
    ("views", "k_base", 3), ("model", "model", "wrn-16-4"), ("optimizer", "learning_rate", 0.5),
    ("privacy", "epsilon", 9.0), ("features", "fresh_views", True),
    ("input", "class_names", ["cat", "dog"]),
])  # fmt: skip
def test_another_setting_is_named(folder, section, name, value):
    said = changed(audit_of_run(folder.root), section, **{name: value})
    with pytest.raises(DpmixError, match=rf"its ({name}|input) is .*audit this run: dpmix audit"):
        found(folder, said)


@pytest.mark.parametrize(("name", "value"), [
    ("noise_multiplier", 9.0), ("noise_multiplier", None), ("steps", 4), ("n", 101),
    ("delta", 1e-3), ("prior_releases", [4.0]), ("sampling_rate", 0.25), ("max_grad_norm", 2.0),
])  # fmt: skip
def test_another_plan_is_named(folder, name, value):
    said = audit_of_run(folder.root)
    with pytest.raises(DpmixError, match=f"audit of other settings: its {name} is"):
        found(folder, said | {"plan": said["plan"] | {name: value}})


@pytest.mark.parametrize("changes", [
    {"refuted": True}, {"two_worlds": 99.0}, {"invariants": [
        {"name": "noise", "holds": False, "found": "half of it"}]},
])  # fmt: skip
def test_a_verdict_that_does_not_follow_is_refused(folder, changes):
    with pytest.raises(DpmixError, match="its verdict does not follow from what it found"):
        found(folder, audit_of_run(folder.root, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"refuted": false}', "\x00"])
def test_something_else_is_refused(folder, text):
    folder.audit.write_text(text)
    made = facts()
    with pytest.raises(DpmixError, match=r"audit.json' is no audit of this version of dpmix"):
        audit_of(folder, config_of(made), made.statement)


def test_an_audit_from_before_there_were_two_readings_is_one_of_the_first(folder):
    said, made = audit_of_run(folder.root), facts(data="/here/scans")
    del said["settings"]["input"]["reading"]
    folder.audit.write_text(json.dumps(said))
    for reading in (1, 2):
        read = config_of(made).input.model_copy(update={"reading": reading})
        config = config_of(made).model_copy(update={"input": read})
        if reading == 1:
            assert audit_of(folder, config, made.statement)
        else:
            with pytest.raises(DpmixError, match="its input is"):
                audit_of(folder, config, made.statement)
