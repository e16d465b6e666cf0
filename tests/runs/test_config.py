"""The settings and their recipes: what overrides what, what is written, what an error says."""

import json
import math
from hashlib import sha256

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.config import Config
from dpmix.runs.recipes import recipe_names
from dpmix.runs.settings import LEAVES, SECTIONS


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_names_are_unique_and_each_has_a_help_text():
    fields = [item for section in SECTIONS.values() for item in section.model_fields.items()]
    assert sorted(name for name, _ in fields) == sorted(LEAVES)
    assert all(field.description for _, field in fields)


def test_single_settings_override_the_recipe_and_the_recipe_the_defaults(recipe):
    path = recipe("privacy: {epsilon: 2, delta: 1.0e-6}\nviews: {method: self-aug}\n")
    config = Config.load(path, epsilon=1.5, k_base=None)
    assert (config.privacy.epsilon, config.privacy.delta) == (1.5, 1e-6)
    assert (config.views.method, config.views.k_diff) == ("self-aug", 2)


def test_what_is_given_replaces_what_a_recipe_gives_in_another_form(recipe):
    path = recipe(
        "privacy: {epochs: 2, expected_batch_size: 9}\nmodel: {trainable: lora, lora_rank: 3}\n"
        "features: {cache_views: 9}\n"
    )
    config = Config.load(path, steps=3, sampling_rate=0.1, denominator=4, trainable="all")
    privacy = config.privacy
    assert (privacy.steps, privacy.epochs, privacy.expected_batch_size) == (3, None, None)
    assert (config.model.lora_rank, config.features.cache_views) == (8, None)
    assert Config.load(path, epochs=5).privacy.epochs == 5


def test_what_is_written_reads_back_the_same_without_leave_to_overwrite(recipe):
    config = Config.load(epsilon=math.inf, flip=False, optimizer_options="{nesterov: true}")
    assert Config.load(recipe(config.to_yaml())) == config
    text = Config.load(output="here", overwrite=True, seed=3).to_yaml()
    again = Config.load(recipe(text))
    assert (again.run.output, again.run.overwrite, again.run.seed) == (None, False, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("privacy: {epsilonn: 3}", r"unknown field 'privacy\.epsilonn'.*did you mean 'epsilon'"),
        ("views: {method: mixself}", "method is 'mixself' in recipe.*did you mean 'mix-self'"),
        ("views: {k_base: many}", "k_base is 'many'.*expected a whole number"),
        ("privacy: 3", "must map sections"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(recipe, text, message):
    with pytest.raises(DpmixError, match=message) as error:
        Config.load(recipe(text))
    assert len(str(error.value).splitlines()) <= 2


def test_a_release_that_a_recipe_counts_stays_counted(recipe):
    path = recipe("privacy: {prior_releases: [one.json]}\n")

    def counted(recipe=None, **settings):
        return Config.load(recipe, **settings).privacy.prior_releases

    assert counted(path) == ("one.json",)
    assert counted(path, prior_releases=["two.json"]) == ("one.json", "two.json")
    assert counted(path, prior_releases=("one.json",)) == ("one.json",)
    assert counted(prior_releases=["two.json"]) == ("two.json",)


# The paper's recipes

SETS = ("cifar10", "cifar100", "eurosat", "caltech256", "sun397", "pet")
METHODS = ("self-aug", "mix-self", "mix-diff")
GOLDEN = "5409e0be400d0ad063f0e392834ea1637566246f315ebde01998371e164ad5f9"


def test_there_is_one_for_every_cell_and_none_changes_unnoticed():
    cells = {f"scratch-{data}-{method}" for data in SETS[:3] for method in METHODS}
    cells |= {
        f"{tower}-{data}-{start}{method}"
        for tower in ("vit-b-16", "convnext")
        for data in SETS
        for start in ("", "text-")
        for method in METHODS
    }
    assert set(recipe_names()) == cells
    given = {
        name: Config.load(name).model_dump(mode="json", exclude_defaults=True) for name in cells
    }
    digest = sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
    assert digest == GOLDEN, "a recipe has other settings than those that results were made with"


def test_a_file_is_never_hidden_by_a_name(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe("privacy: {epsilon: 7}\n", "convnext-pet-mix-self")
    assert Config.load("convnext-pet-mix-self").privacy.epsilon == 7
    with pytest.raises(DpmixError, match=r"did you mean 'vit-b-16-pet-mix-self'"):
        Config.load("vit-b16-pet-mix-self")
    with pytest.raises(DpmixError, match=r"no recipe 'zzz': expected one of 81, .* YAML file"):
        Config.load("zzz")
    with pytest.raises(DpmixError, match=r"cannot read recipe 'none\.yaml'"):
        Config.load("none.yaml")


def test_no_place_can_take_back_a_release_that_another_one_counts(recipe):
    path = recipe("privacy: {prior_releases: [one.json]}\n")
    for more in ([], ()):
        assert Config.load(path, prior_releases=more).privacy.prior_releases == ("one.json",)
