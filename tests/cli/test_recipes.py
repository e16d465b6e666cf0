"""`dpmix recipes`, and that each of them runs."""

import functools
from pathlib import Path

import pytest
import yaml

from dpmix.data.torchvision_sets import KNOWN
from dpmix.runs import parts as network
from dpmix.runs.build import calibrate, choose_device
from dpmix.runs.config import Config
from dpmix.runs.recipes import recipe_names, recipe_path
from dpmix.runs.stand_ins import miniature
from dpmix.training.feature_cache import FeatureCache

pytestmark = pytest.mark.usefixtures("unchecked")
EPSILONS = (1, 2, 4, 8)
load_once = functools.cache(network.load_backbone)
SECONDS_PER_VIEW = {}


@pytest.fixture
def towers(monkeypatch):
    """Each tower is built and timed once; a frozen one is the same after a run."""
    pytest.importorskip("open_clip")
    timed = FeatureCache.seconds_per_view

    def time_once(cache, *given):
        if cache.backbone.name not in SECONDS_PER_VIEW:
            SECONDS_PER_VIEW[cache.backbone.name] = timed(cache, *given)
        return SECONDS_PER_VIEW[cache.backbone.name]

    monkeypatch.setattr(network, "load_backbone", load_once)
    monkeypatch.setattr(FeatureCache, "seconds_per_view", time_once)


def test_they_are_listed_with_their_network(dpmix):
    status, out, _ = dpmix("recipes", "list")
    assert status == 0
    assert len(out.splitlines()) == 46
    assert "scratch-eurosat-mix-diff" in out and "open_clip:ViT-B-16/laion2b_s34b_b88k" in out


def test_one_is_shown_with_all_that_it_inherits(dpmix):
    status, out, _ = dpmix("recipes", "show", "convnext-sun397-mix-diff")
    shown = yaml.safe_load(out)
    assert status == 0
    assert shown["data"] == {"image_size": 256, "data": "sun397"}
    assert shown["privacy"]["expected_batch_size"] == 1000
    assert "base" not in shown


def test_an_unknown_one_is_one_line(dpmix):
    status, _, err = dpmix("train", "--config", "convnext-sun397")
    assert status == 2
    assert "no recipe 'convnext-sun397'" in err


def recipes_of_one_plan():
    """Names of recipes with the same N, batch and steps: calibrated once, in one process."""
    plans = {}
    for name in recipe_names():
        config = Config.load(recipe_path(name))
        plans.setdefault((config.data.data, str(config.privacy)), []).append(name)
    return list(plans.values())


def dry_runs():
    """One recipe of each plan; from scratch among the slow tests.

    A dry run times a step of WRN-16-4: once is enough where time is short, and a test below does.
    """
    firsts = [names[0] for names in recipes_of_one_plan()]
    return [
        pytest.param(name, marks=[pytest.mark.slow] * name.startswith("scratch")) for name in firsts
    ]


@pytest.mark.parametrize("names", recipes_of_one_plan(), ids=lambda names: names[0])
def test_it_is_calibrated_at_every_epsilon(names):
    config = Config.load(recipe_path(names[0]))
    for epsilon in EPSILONS:
        privacy = config.privacy.model_copy(update={"epsilon": epsilon})
        plan = calibrate(privacy, KNOWN[config.data.data].train, config.view_spec(True))
        assert 0.98 * epsilon < plan.epsilon <= epsilon
        assert plan.delta == 1e-5
        assert plan.steps == round(privacy.epochs / plan.sampling_rate)


@pytest.mark.parametrize("name", dry_runs())
def test_it_runs_dry(dpmix, tmp_path, towers, name):
    # Two steps of every recipe are taken below.
    status, out, _ = dpmix(
        "train", "--config", name, "--epsilon", 1, "--dry-run", "--data-root", tmp_path
    )
    assert status == 0
    for part in (
        "not here: by its published numbers", "MiB", f"in all on {choose_device('auto')}",
        "wrn-16-4" if name.startswith("scratch") else "random weights",
    ):  # fmt: skip
        assert part in out


def recipes_of_one_miniature():
    """Names of recipes that are the same two steps on noise, all but the name of their data."""
    kinds = {}
    for name in recipe_names():
        config = Config.load(recipe_path(name))
        small = miniature(config, Path("folder")).model_dump()
        small["data"]["data"] = None
        kinds.setdefault(str(small), []).append(name)
    return list(kinds.values())


def test_a_miniature_forgets_all_of_a_recipe_but_network_and_method():
    assert len(recipes_of_one_miniature()) == 9


@pytest.mark.parametrize("names", recipes_of_one_miniature(), ids=lambda names: names[0])
def test_it_takes_two_steps_on_a_miniature(dpmix, towers, names):
    status, out, err = dpmix("train", "--config", names[0], "--epsilon", 1, "--smoke")
    assert (status, err) == (0, "")
    assert "smoke run: it works" in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("scratch-cifar10-self-aug", ["wrn-16-4, 2,7", "65536 forward and backward", "q 0.08192"]),
        pytest.param(
            "scratch-cifar10-mix-self",
            ["wrn-16-4, 2,7", "139264 forward and backward", "q 0.08192"],
            marks=pytest.mark.slow,
        ),
        ("vit-b-16-cifar10-mix-diff", ["head: 5,130 of", "1,800,000 views", "36000 forward"]),
    ],
)
def test_the_dry_run_gives_the_papers_numbers(dpmix, tmp_path, towers, name, said):
    status, out, _ = dpmix(
        "train", "--config", name, "--epsilon", 8, "--dry-run", "--data-root", tmp_path
    )
    assert status == 0
    assert all(part in out for part in said)


def test_a_smoke_run_reads_and_leaves_nothing(dpmix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = dpmix(
        "train", "--data", tmp_path / "nothing", "--pool", tmp_path / "none", "--method",
        "mix-self", "--pool-role", "pretrain", "--model", "cnn-small", "--output", "mine",
        "--smoke", "--sampling-rate", 0.1, "--denominator", 7, "--spent", "no.json",
    )  # fmt: skip
    assert status == 0
    assert "smoke run: it works" in out
    assert list(tmp_path.iterdir()) == []


def test_a_smoke_run_on_the_backbone_at_hand_leaves_nothing(dpmix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = dpmix("train", "--data", "nothing", "--cache-dir", "mine", "--smoke")
    assert status == 0
    assert "32x32" in out
    assert list(tmp_path.iterdir()) == []


def test_dry_and_smoke_do_not_go_together(dpmix):
    status, _, err = dpmix("train", "--smoke", "--dry-run")
    assert status == 2
    assert "--dry-run and --smoke were given together" in err
