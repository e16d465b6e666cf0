"""The tree of settings: recipes, single settings, and what is said of a mistake."""

import math

import pytest

from dpmix.errors import DpmixError
from dpmix.runs.config import LEAVES, SECTIONS, Config


def recipe(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    return path


def test_leaf_names_are_unique_so_that_each_can_be_a_flag():
    names = [leaf for section in SECTIONS.values() for leaf in section.model_fields]
    assert sorted(names) == sorted(LEAVES)
    assert all(
        field.description
        for section in SECTIONS.values()
        for field in section.model_fields.values()
    )


def test_single_settings_override_the_recipe_and_the_recipe_the_defaults(tmp_path):
    path = recipe(tmp_path, "privacy: {epsilon: 2, delta: 1.0e-6}\nviews: {method: self-aug}\n")
    config = Config.load(path, epsilon=1.5, k_base=None)
    assert (config.privacy.epsilon, config.privacy.delta) == (1.5, 1e-6)
    assert (config.views.method, config.views.k_diff) == ("self-aug", 2)


def test_what_is_given_replaces_what_a_recipe_says_in_another_way(tmp_path):
    path = recipe(tmp_path, "privacy: {epochs: 2, expected_batch_size: 9}\n")
    privacy = Config.load(path, steps=3, sampling_rate=0.1, denominator=4).privacy
    assert (privacy.steps, privacy.epochs, privacy.expected_batch_size) == (3, None, None)
    assert Config.load(path, epochs=5).privacy.epochs == 5


def test_what_is_written_reads_back_the_same(tmp_path):
    config = Config.load(epsilon=math.inf, flip=False, optimizer_options="{nesterov: true}")
    assert Config.load(recipe(tmp_path, config.to_yaml())) == config


def test_leave_to_overwrite_is_not_written_down(tmp_path):
    text = Config.load(output="here", overwrite=True, seed=3).to_yaml()
    again = Config.load(recipe(tmp_path, text))
    assert (again.run.output, again.run.overwrite, again.run.seed) == (None, False, 3)


def test_every_default_field_suits_the_views_section():
    chosen = {"method": "mix-self", "k_base": 2, "k_self": 3, "crop_padding": 4}
    assert Config.load(flip=None, **chosen).view_spec(flip=False).flip is False
    assert Config.load(flip=True, **chosen).view_spec(flip=False).flip is True


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("privacy: {epsilonn: 3}", r"unknown field 'privacy\.epsilonn'.*did you mean 'epsilon'"),
        ("privcy: {epsilon: 3}", r"unknown field 'privcy'.*did you mean 'privacy'"),
        ("views: {method: mixself}", "method is 'mixself'.*did you mean 'mix-self'"),
        ("views: {k_base: many}", "k_base is 'many'.*integer"),
        ("optimizer: {learning_rate: -1}", "learning_rate is -1.*greater than 0"),
        ("- a\n- b", "must map names"),
        ("3", "must map names"),
        ("privacy: 3", "must map sections"),
        ("privacy: {epsilon: [", "is not valid YAML"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_a_mistake_in_a_recipe_is_named(tmp_path, text, message):
    with pytest.raises(DpmixError, match=message) as error:
        Config.load(recipe(tmp_path, text))
    assert len(str(error.value).splitlines()) <= 2


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DpmixError, match=r"cannot read recipe '.*none\.yaml'"):
        Config.load(tmp_path / "none.yaml")


def test_an_unknown_setting_has_the_nearest_name():
    with pytest.raises(DpmixError, match="unknown setting 'epsilom': did you mean 'epsilon'"):
        Config.load(epsilom=3)


def test_what_a_recipe_spent_stays_spent_whatever_is_added(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("privacy: {spent: [one.json]}\n")
    assert Config.load(recipe).privacy.spent == ("one.json",)
    assert Config.load(recipe, spent=["two.json"]).privacy.spent == ("one.json", "two.json")
    assert Config.load(recipe, spent=("one.json",)).privacy.spent == ("one.json",)
    assert Config.load(spent=["two.json"]).privacy.spent == ("two.json",)


def test_a_recipe_inherits_what_it_does_not_say(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "all.yaml").write_text(
        "privacy: {epsilon: 2, epochs: 3, expected_batch_size: 9}\nviews: {k_base: 5}\n"
    )
    (tmp_path / "base" / "mid.yaml").write_text("base: all.yaml\nviews: {k_self: 7}\n")
    path = recipe(tmp_path, "base: base/mid.yaml\nprivacy: {steps: 4}\nrun: {seed: 1}\n")
    config = Config.load(path, epsilon=5)
    assert (config.privacy.epsilon, config.privacy.steps, config.privacy.epochs) == (5, 4, None)
    assert config.privacy.expected_batch_size == 9
    assert (config.views.k_base, config.views.k_self, config.run.seed) == (5, 7, 1)


def test_a_base_that_can_not_be_is_refused(tmp_path):
    for text, message in (
        ("base: recipe.yaml\n", "inherits from itself"),
        ("base: gone.yaml\n", r"cannot read recipe '.*gone\.yaml'"),
        ("base: [1]\n", r"base is \[1\]; expected the name"),
    ):
        with pytest.raises(DpmixError, match=message):
            Config.load(recipe(tmp_path, text))
