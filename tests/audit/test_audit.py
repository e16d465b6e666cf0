"""Audits of the real trainer, of trainings that leak or not, and of the run that they belong to."""

import json

import numpy as np
import pytest
import torch

from audit_subject import audit, plan
from dpmix.audit.audit import audit_of
from dpmix.audit.canaries import audit_images
from dpmix.data.source import TensorSource
from dpmix.errors import DpmixError
from dpmix.privacy.accounting import epsilon_pld
from dpmix.runs.folder import RunFolder
from example_audit import audit_of_run
from example_facts import facts, write_run


@pytest.mark.parametrize("changes", [
    {}, {"noise_multiplier": 2.0, "sampling_rate": 0.5, "steps": 4},
], ids=str)  # fmt: skip
def test_the_bound_lies_below_the_claim_and_above_half_of_it(changes):
    found = audit(plan(**changes))
    assert not found.violated
    assert 0.5 * found.claimed < found.lower_bound < found.claimed
    assert 0.2 * found.claimed < found.one_run


def test_the_claim_is_the_plans_and_too_many_canaries_are_refused():
    found = audit(plan(), canaries=10, runs=1)
    assert found.claimed == epsilon_pld(1.0, 1.0, 1, 1e-5) and found.canaries == 10
    with pytest.raises(DpmixError, match="give fewer canaries"):
        audit(plan(), canaries=50_000)


def by_images(train, **changes):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)
    data = TensorSource(torch.from_numpy(pixels), torch.arange(6) % 3, ("a", "b", "c"))
    settings = {"canaries": 400, "runs": 1, "plan": plan(noise_multiplier=4.0)}
    return audit_images(
        train, data=data, confidence=0.95, rng=np.random.default_rng(0), **settings | changes
    )


def test_a_training_that_remembers_its_images_is_found_out():
    def remembers(data):
        seen = {bytes(pixels.numpy()) for pixels in data.images(torch.arange(len(data)))}

        def gained(images):
            pixels = images.images(torch.arange(len(images)))
            return np.array([float(bytes(one.numpy()) in seen) for one in pixels])

        return gained

    found = by_images(remembers)
    assert found.violated and found.one_run > 3 and found.canaries == 400
    assert by_images(remembers, runs=2).canaries == 800


def test_a_training_that_ignores_them_is_not_accused():
    rng = np.random.default_rng(1)
    found = by_images(lambda data: lambda images: rng.random(len(images)))
    assert not found.violated and found.one_run < 0.5


@pytest.fixture
def folder(tmp_path):
    return RunFolder(write_run(tmp_path / "run", data="/here/scans"))


def found(folder, said):
    folder.audit.write_text(json.dumps(said))
    return audit_of(folder, facts(data="/here/scans"))


def changed(said, section, **fields):
    settings = said["settings"]
    return said | {"settings": settings | {section: settings[section] | fields}}


def test_an_audit_of_the_same_settings_counts_wherever_the_data_lay(folder):
    said = audit_of_run(folder.root)
    assert audit_of(folder, facts()) is None
    assert found(folder, said).two_worlds == 1.2
    assert found(folder, changed(said, "data", workers=3)).runs == 1
    sigma = said["plan"]["noise_multiplier"] * (1 + 4e-4)
    assert found(folder, said | {"plan": said["plan"] | {"noise_multiplier": sigma}})


@pytest.mark.parametrize(("section", "name", "value"), [
    ("data", "data", "cifar10"), ("views", "k_base", 3), ("model", "model", "wrn-16-4"),
    ("input", "class_names", ["cat", "dog"]), ("plan", "noise_multiplier", 9.0),
    ("plan", "noise_multiplier", None), ("plan", "steps", 4), ("plan", "n", 101),
    ("plan", "delta", 1e-3), ("plan", "prior_releases", [4.0]), ("plan", "sampling_rate", 0.25),
    ("plan", "max_grad_norm", 2.0),
])  # fmt: skip
def test_another_setting_or_plan_is_named(folder, section, name, value):
    said = audit_of_run(folder.root)
    other = said | {"plan": said["plan"] | {name: value}}
    with pytest.raises(DpmixError, match=rf"its ({name}|input) is .*audit this run: dpmix audit"):
        found(folder, other if section == "plan" else changed(said, section, **{name: value}))


@pytest.mark.parametrize("changes", [
    {"refuted": True}, {"two_worlds": 99.0}, {"invariants": [
        {"name": "noise", "holds": False, "found": "half of it"}]},
])  # fmt: skip
def test_a_verdict_that_does_not_follow_is_refused(folder, changes):
    with pytest.raises(DpmixError, match="its verdict does not follow from what it found"):
        found(folder, audit_of_run(folder.root, **changes))
    with pytest.raises(DpmixError, match=r"audit.json' is no audit of this version of dpmix"):
        found(folder, {"refuted": False})
