"""The recipes of the paper: all there, and with its numbers."""

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.config import Config
from dpmix.runs.defaults import choose_model
from dpmix.runs.recipes import FOLDER, recipe_names, recipe_path

SETS = ("cifar10", "cifar100", "eurosat", "caltech256", "sun397", "pet")
METHODS = ("self-aug", "mix-self", "mix-diff")
TOWERS = {
    "vit-b-16": ("open_clip:ViT-B-16/laion2b_s34b_b88k", 224),
    "convnext": ("open_clip:convnext_base_w/laion2b_s13b_b82k", 256),
}


def test_there_is_one_for_every_cell():
    cells = {f"scratch-{data}-{method}" for data in SETS[:3] for method in METHODS}
    cells |= {f"{t}-{data}-{method}" for t in TOWERS for data in SETS for method in METHODS}
    assert set(recipe_names()) == cells


@pytest.mark.parametrize("name", recipe_names())
def test_each_has_the_papers_numbers(name):
    config = choose_model(Config.load(recipe_path(name)))
    views, privacy, optimizer = config.views, config.privacy, config.optimizer
    assert (views.k_base, views.k_self, views.k_diff, views.mixup_alpha) == (16, 18, 2, 0.2)
    assert views.crop_padding == 4 and views.flip and views.average == "all"
    assert (privacy.delta, privacy.max_grad_norm) == (1e-5, 1.0)
    assert (optimizer.optimizer, optimizer.momentum) == ("SGD", 0)
    assert name.endswith(f"{config.data.data}-{views.method}")
    if name.startswith("scratch"):
        assert config.model.model == "wrn-16-4"
        assert (privacy.expected_batch_size, privacy.epochs) == (4096, 200)
        assert (optimizer.learning_rate, optimizer.ema_decay) == (4, 0.9999)
    else:
        tower, size = TOWERS[name.removesuffix(f"-{config.data.data}-{views.method}")]
        assert (config.model.backbone, config.data.image_size) == (tower, size)
        assert config.model.trainable == "head"
        assert (privacy.expected_batch_size, privacy.epochs) == (1000, 10)
        assert optimizer.weight_decay == 1e-5


def test_each_file_shows_only_what_differs():
    for name in recipe_names():
        assert len((FOLDER / f"{name}.yaml").read_text().splitlines()) == 3


def test_a_recipe_is_given_by_name_or_by_path(tmp_path, monkeypatch):
    mine = tmp_path / "mine.yaml"
    mine.write_text("privacy: {epsilon: 1}\n")
    assert recipe_path(str(mine)) == mine
    assert recipe_path("convnext-pet-mix-self") == FOLDER / "convnext-pet-mix-self.yaml"
    with pytest.raises(DpmixError, match=r"did you mean 'vit-b-16-pet-mix-self'"):
        recipe_path("vit-b16-pet-mix-self")
    with pytest.raises(DpmixError, match=r"no recipe 'zzz': expected one of 45, .* YAML file"):
        recipe_path("zzz")
