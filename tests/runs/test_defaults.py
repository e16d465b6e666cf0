"""What a run does where the user said nothing."""

import pytest

from dpmix.errors import DpmixError
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.config import Config
from dpmix.runs.defaults import (
    choose_image_size,
    choose_model,
    choose_recipe,
)
from dpmix.runs.from_scratch import choose_few_views


def chosen(**settings):
    return choose_model(Config.load(**settings))


def test_the_demo_trains_the_small_network_and_other_data_a_backbone():
    demo, other = chosen(), chosen(data="photos")
    assert (demo.model.model, demo.views.crop_padding) == ("cnn-small", 1)
    assert other.model.model is None and other.model.backbone is not None
    assert chosen(data="photos", model="wrn-16-4").model.backbone is None
    without = chosen(data="photos", public_weights=False).model
    assert (without.model, without.backbone) == ("scatter-cnn", "scattering-map")
    assert chosen(public_weights=False).model.model == "cnn-small"
    head = chosen(data="photos", public_weights=False, backbone="scatternet")
    assert head.model.model is None


def test_the_method_is_the_one_that_measured_best_or_else_the_papers():
    best = {"scatternet": "self-aug", "efficientnet-lite0": "none", "timm:resnet18": "mix-self"}
    for backbone, method in best.items():
        assert chosen(backbone=backbone).views.method == method
        assert chosen(backbone=backbone, trainable="all").views.method == "mix-self"
        assert chosen(backbone=backbone, k_self=3).views.method == "mix-self"
        crops = "mix-self" if method == "mix-self" else "self-aug"
        assert chosen(backbone=backbone, k_base=3).views.method == crops
        assert chosen(backbone=backbone, method="mix-diff").views.method == "mix-diff"
    of_models = {"cnn-small": "self-aug", "scatter-cnn": "self-aug", "wrn-16-4": "mix-self"}
    for model, method in of_models.items():
        assert chosen(model=model).views.method == method
        assert chosen(model=model, k_self=3).views.method == "mix-self"


BACKBONE = {"backbone": "timm:resnet18"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "cnn-small", "backbone": "scatternet"}, "give one of --model and --backbone"),
        ({"model": "cnn-small", "trainable": "lora"}, "trainable is 'lora', which --model cnn-sm"),
        ({"model": "scatter-cnn", "backbone": "timm:resnet18"}, "give one of --model and"),
        ({"model": "scatter-cnn", "trainable": "all"}, "trainable is 'all', which --model scatter"),
        ({"model": "scatter-cnn", "head_start": "text"}, "head_start is 'text', which --model sca"),
        (BACKBONE | {"public_weights": False}, "leave out one of --backbone and --no-public-weig"),
        (BACKBONE | {"shortcut": "conv"}, "shortcut is 'conv', which --trainable head has no use"),
        (BACKBONE | {"trainable": "lora", "last_blocks": 2}, "last_blocks is 2, which --trainab"),
        (BACKBONE | {"trainable": "all", "cache_views": 9}, "cache_views is 9, which --trainable"),
        (BACKBONE | {"fresh_views": True, "cache_views": 9}, "--fresh-views trains without a cac"),
    ],
)
def test_what_means_nothing_for_what_is_trained_is_refused(settings, message):
    with pytest.raises(DpmixError, match=message):
        chosen(**settings)


def test_files_are_resized_to_the_backbone_and_arrays_are_not(class_folder, digits_npz):
    folder = class_folder("photos", {"a": 1, "b": 1})
    assert choose_image_size(chosen(data=str(folder)), 96).data.image_size == 96
    assert choose_image_size(chosen(data=str(folder), image_size=48), 96).data.image_size == 48
    assert choose_image_size(chosen(data="pet"), 96).data.image_size == 96
    for equal in ("cifar10", "eurosat", "mnist5k", str(digits_npz)):
        assert choose_image_size(chosen(data=equal), 96).data.image_size is None


@pytest.mark.parametrize(
    ("n", "epsilon", "batch", "steps", "k_base"),
    [
        (500, 3, 500, 50, 8),
        (4_000, 3, 2048, 50, 2),
        (4_000, 8, 2048, 128, 1),
        (50_000, 3, 2048, 600, 1),
        (10**7, 3, 2048, 800, 1),
        (4_000, float("inf"), 2048, 400, 1),
    ],
)
def test_the_recipe_from_scratch_follows_n_and_epsilon(n, epsilon, batch, steps, k_base):
    config = chosen(model="cnn-small", epsilon=epsilon)
    config = choose_few_views(config, Config().views, n)
    privacy = choose_recipe(config, n, 8).privacy
    assert (privacy.expected_batch_size, privacy.steps) == (batch, steps)
    assert (config.views.method, config.views.k_base) == ("self-aug", k_base)


def test_views_from_scratch_follow_what_was_given():
    def k_base(n=50_000, **settings):
        asked = Config.load(model="cnn-small", **settings)
        return choose_few_views(choose_model(asked), asked.views, n).views.k_base

    assert k_base(k_base=5) == 5
    assert k_base(method="mix-self") == 4 and k_base(n=10) == 8
    assert k_base(expected_batch_size=400, steps=50) == 8
    assert k_base(expected_batch_size=400, epochs=1) == 4
    assert k_base(sampling_rate=0.1, denominator=9) == 8, "it would tell N"
    scratch = choose_recipe(chosen(model="wrn-16-4", sampling_rate=0.1, denominator=9), 50_000, 34)
    assert scratch.privacy.steps == 50, "it would tell N"


def test_scatter_cnn_is_a_network_on_cached_maps():
    config = chosen(model="scatter-cnn", data="photos", epsilon=1)
    assert (config.model.backbone, config.data.channels) == ("scattering-map", 3)
    assert choose_model(config) == config, "a resumed run has the settings that it began with"
    recipe = choose_recipe(config, 50_000, 4)
    assert (recipe.privacy.expected_batch_size, recipe.privacy.steps) == (8192, 50)
    assert recipe.features.cache_views == 4
    assert choose_recipe(chosen(model="scatter-cnn"), 50_000, 4).privacy.steps == 150

    def k_base(n, **given):
        asked = Config.load(model="scatter-cnn", **given)
        return choose_few_views(choose_model(asked), asked.views, n).views.k_base

    assert [k_base(n) for n in (500, 25_000, 50_000, 10**6)] == [8, 8, 4, 1]
    assert k_base(50_000, k_base=16) == 16
    assert k_base(50_000, sampling_rate=0.1, denominator=9) == 8, "it would tell N"
    fresh = choose_recipe(chosen(model="scatter-cnn", fresh_views=True), 500, 4)
    assert (fresh.privacy.expected_batch_size, fresh.features.cache_views) == (500, None)


def test_the_batch_of_a_head_is_everything():
    head = choose_recipe(chosen(backbone="timm:resnet18"), 1234, 34)
    assert (head.privacy.expected_batch_size, head.features.cache_views) == (1234, 36)
    more = choose_recipe(chosen(backbone="timm:resnet18", trainable="norm-and-bias"), 1234, 34)
    assert (more.privacy.expected_batch_size, more.features.cache_views) == (400, None)
    assert choose_recipe(chosen(backbone="scatternet"), 99, 8).features.cache_views == 8
    assert choose_recipe(chosen(backbone="efficientnet-lite0"), 99, 1).features.cache_views == 1
    assert choose_recipe(chosen(backbone="timm:resnet18"), 99, 50).features.cache_views == 50


def test_delta_follows_n_where_n_is_public():
    def delta(n, **settings):
        return choose_recipe(chosen(model="cnn-small", **settings), n, 34).privacy.delta

    assert [delta(n) for n in (5, 10_000, 20_000, 10**6)] == [1e-5, 1e-5, 5e-6, 1e-7]
    assert delta(45_000) == 2.2e-6 <= 1 / 450_000
    assert delta(10**6, delta=1e-3) == 1e-3
    assert delta(10**6, sampling_rate=0.1, denominator=9) == 1e-5, "it would tell N"
    plan = PrivacyPlan.calibrate(n=10**6, expected_batch_size=1000, steps=5, epsilon=3)
    assert plan.delta == 1e-7
