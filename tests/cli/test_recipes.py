"""`dpmix recipes`, and that each of them is calibrated and takes two steps on noise."""

import functools

import pytest

from dpmix.runs import network
from dpmix.runs.build import calibrate
from dpmix.runs.config import Config
from dpmix.runs.recipes import recipe_names

pytestmark = pytest.mark.usefixtures("unchecked", "plain_pages")
EPSILONS = (1, 8)
load_once = functools.cache(network.load_backbone)
TRAIN_IMAGES = {
    "cifar10": 50_000, "cifar100": 50_000, "eurosat": 21_600, "caltech256": 24_486,
    "sun397": 87_004, "pet": 3_680,
}  # fmt: skip


@pytest.fixture
def towers(monkeypatch):
    """Each tower is built once; a frozen one is the same after a run."""
    pytest.importorskip("open_clip")
    monkeypatch.setattr(network, "load_backbone", load_once)


def recipes_of_one_plan():
    """One name of each group of recipes with the same N, batch and steps."""
    plans = {}
    for name in recipe_names():
        config = Config.load(name)
        plans.setdefault((config.data.data, str(config.privacy)), name)
    return list(plans.values())


@pytest.mark.parametrize("name", recipes_of_one_plan())
def test_it_is_calibrated_at_every_epsilon(name):
    config = Config.load(name)
    for epsilon in EPSILONS:
        privacy = config.privacy.model_copy(update={"epsilon": epsilon})
        plan = calibrate(privacy, TRAIN_IMAGES[config.data.data], config.view_spec(True))
        assert 0.98 * epsilon < plan.epsilon <= epsilon
        assert plan.delta == 1e-5
        assert plan.steps == round(privacy.epochs / plan.sampling_rate)


@pytest.mark.parametrize(("network", "method"), [("scratch", "mix-diff"), ("vit-b-16", "mix-self")])
def test_it_takes_two_steps_on_noise(dpmix, towers, network, method):
    """On noise the recipes of one network and method are the same, whatever their data."""
    name = f"{network}-cifar10-{method}"
    status, out, err = dpmix("train", "--config", name, "--epsilon", 1, "--smoke")
    assert (status, err) == (0, "")
    assert "smoke run: it works" in out


def test_a_smoke_run_reads_and_leaves_nothing(dpmix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = dpmix(
        "train", "--data", tmp_path / "nothing", "--pool", tmp_path / "none", "--method",
        "mix-self", "--pool-role", "pretrain", "--model", "cnn-small", "--output", "mine",
        "--smoke", "--sampling-rate", 0.1, "--denominator", 7, "--prior-release", "no.json",
    )  # fmt: skip
    assert status == 0
    assert "smoke run: it works" in out
    status, out, _ = dpmix("train", "--data", "nothing", "--cache-dir", "mine", "--smoke")
    assert status == 0 and "32x32" in out, "a backbone at hand is tried with its cache"
    assert list(tmp_path.iterdir()) == []
    status, _, err = dpmix("train", "--smoke", "--dry-run")
    assert status == 2 and "--dry-run and --smoke were given together" in err
