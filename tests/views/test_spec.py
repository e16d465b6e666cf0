"""`ViewSpec`: what it counts, and what it refuses."""

from dataclasses import FrozenInstanceError

import pytest

from dpmix.errors import DpmixError
from dpmix.views import METHODS, ViewSpec

COUNTS = {"k_base": 5, "k_self": 7, "k_diff": 3}


@pytest.mark.parametrize(
    ("method", "average", "base", "public", "mixed", "total"),
    [
        ("none", "all", 1, 0, 0, 1),
        ("self-aug", "all", 5, 0, 0, 5),
        ("mix-self", "all", 5, 0, 7, 12),
        ("mix-self", "mixed-only", 5, 0, 7, 7),
        ("mix-diff", "all", 5, 3, 7, 15),
        ("mix-diff", "mixed-only", 5, 3, 7, 7),
        ("microbatch-mixup", "all", 5, 0, 7, 12),
        ("microbatch-mixup", "mixed-only", 5, 0, 7, 7),
    ],
)
def test_views_are_counted_for_every_method_and_average(
    method, average, base, public, mixed, total
):
    spec = ViewSpec(method, average=average, **COUNTS)
    assert (spec.base_views, spec.public_views, spec.mixed_views) == (base, public, mixed)
    assert spec.pool_size == spec.unmixed_views == base + public
    assert spec.views == total
    assert spec.mixes == (mixed > 0)


@pytest.mark.parametrize(("k_self", "total"), [(7, 15), (0, 8)])
def test_extra_public_views_count_but_do_not_mix(k_self, total):
    spec = ViewSpec("mix-diff", pool_role="extra", k_base=5, k_self=k_self, k_diff=3)
    assert (spec.pool_size, spec.unmixed_views, spec.views) == (5, 8, total)
    assert spec.sensitivity_multiplier == 1


def test_the_defaults_are_the_papers_34_views():
    assert ViewSpec().views == 34
    assert ViewSpec("mix-diff").views == 36


@pytest.mark.parametrize("method", METHODS)
def test_only_microbatch_mixup_puts_two_examples_behind_one_gradient(method):
    spec = ViewSpec(method)
    expected = 2 if method == "microbatch-mixup" else 1
    assert spec.examples_per_group == spec.sensitivity_multiplier == expected


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"average": "mean"}, "average is 'mean': known: all, mixed-only"),
        ({"extra_augment": "cut-out"}, r"extra_augment is 'cut-out': did you mean 'cutout'\?"),
        ({"method": "none", "extra_augment": "blur"}, "'blur' but method none augments nothing"),
        ({"pool_draw": "sameclass"}, r"pool_draw is 'sameclass': did you mean 'same-class'\?"),
        ({"pool_role": "extras"}, r"pool_role is 'extras': did you mean 'extra'\?"),
        ({"k_base": -1}, "k_base is -1"),
        ({"k_self": -2}, "k_self is -2"),
        ({"k_diff": -3}, "k_diff is -3"),
        ({"crop_padding": -4}, "crop_padding is -4"),
        ({"method": "none", "crop_padding": -4}, "crop_padding is -4"),
        ({"method": "self-aug", "k_base": 0}, "k_base is 0; .*self-aug needs at least 1"),
        ({"method": "mix-self", "k_base": 0}, "k_base is 0; .*mix-self needs at least 1"),
        ({"method": "mix-diff", "k_base": 0}, "k_base is 0; .*mix-diff needs at least 1"),
        (
            {"method": "microbatch-mixup", "k_base": 1},
            "k_base is 1; .*microbatch-mixup needs at least 2",
        ),
        ({"method": "none", "average": "mixed-only"}, "'mixed-only' needs mixtures.*none"),
        ({"method": "self-aug", "average": "mixed-only"}, "'mixed-only' needs mixtures.*self-aug"),
        ({"method": "mix-self", "k_self": 0}, "mix-self with k_self 0 mixes nothing"),
        ({"method": "mix-diff", "k_self": 0}, "mix-diff with k_self 0 mixes nothing"),
        ({"method": "microbatch-mixup", "k_self": 0}, "with k_self 0 mixes nothing"),
        ({"mixup_alpha": 0}, "mixup_alpha is 0"),
        ({"mixup_alpha": -0.5}, r"mixup_alpha is -0\.5"),
        ({"mixup_alpha": float("inf")}, "mixup_alpha is inf"),
        ({"mixup_alpha": float("nan")}, "mixup_alpha is nan"),
        ({"method": "mix-diff", "k_diff": 0}, "k_diff 0 reads no public image"),
        ({"k_self": 0, "pool_role": "extra"}, "mix-self with k_self 0 mixes nothing"),
        (
            {"method": "mix-diff", "pool_role": "extra", "average": "mixed-only"},
            "leaves the public images out",
        ),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused_with_its_value(settings, said):
    with pytest.raises(DpmixError, match=said):
        ViewSpec(**settings)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("typo", "hint"),
    [("mixself", "mix-self"), ("mix_diff", "mix-diff"), ("microbatch", "microbatch-mixup")],
)
def test_an_unknown_method_is_refused_with_the_nearest_name(typo, hint):
    with pytest.raises(DpmixError, match=rf"unknown method '{typo}': did you mean '{hint}'\?"):
        ViewSpec(typo)


@pytest.mark.usefixtures("unchecked")
def test_a_method_like_no_other_is_refused_with_all_names():
    with pytest.raises(DpmixError) as error:
        ViewSpec("zzz")
    assert "did you mean" not in str(error.value)
    assert all(name in str(error.value) for name in METHODS)


def test_settings_that_a_method_does_not_read_do_not_matter():
    assert ViewSpec("none", k_base=0, k_self=0, k_diff=0).views == 1
    assert ViewSpec("self-aug", k_self=0, k_diff=0, mixup_alpha=0).views == 16
    assert ViewSpec("mix-self", k_diff=0).views == 34
    assert ViewSpec("mix-self", pool_role="extra", average="mixed-only").views == 18


def test_the_spec_is_frozen():
    spec = ViewSpec()
    with pytest.raises(FrozenInstanceError):
        spec.k_self = 100
    assert spec == ViewSpec()
    assert hash(spec) == hash(ViewSpec())
