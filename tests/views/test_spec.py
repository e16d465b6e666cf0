"""`ViewSpec`: what it counts, what it refuses, and more views of the same kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpmix.errors import DpmixError
from dpmix.views import ViewSpec
from dpmix.views.spec import enlarged, kinds

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
    expected = 2 if method == "microbatch-mixup" else 1
    assert spec.examples_per_group == spec.sensitivity_multiplier == expected


@pytest.mark.parametrize(("k_self", "total"), [(7, 15), (0, 8)])
def test_extra_public_views_count_but_do_not_mix(k_self, total):
    spec = ViewSpec("mix-diff", pool_role="extra", k_base=5, k_self=k_self, k_diff=3)
    assert (spec.pool_size, spec.unmixed_views, spec.views) == (5, 8, total)
    assert spec.sensitivity_multiplier == 1


def test_the_defaults_are_the_papers_34_views():
    assert ViewSpec().views == 34
    assert ViewSpec("mix-diff").views == 36


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mixself"}, r"method is 'mixself': did you mean 'mix-self'\? known: micro"),
        ({"extra_augment": "cut-out"}, r"extra_augment is 'cut-out'.*did you mean 'cutout'\?"),
        ({"method": "none", "extra_augment": "blur"}, "'blur' with method none: expected 'none'"),
        ({"k_base": -1}, "k_base is -1 with method mix-self: expected 1 or more"),
        ({"k_base": 1.5}, "k_base is 1.5 .*expected a whole number"),
        ({"method": "microbatch-mixup", "k_base": 1}, "k_base is 1 .*expected 2 or more"),
        ({"method": "none", "average": "mixed-only"}, "'mixed-only' .* none: expected 'all'"),
        ({"method": "self-aug", "average": "mixed-only"}, "'mixed-only'.*self-aug: expected 'all'"),
        ({"method": "mix-diff", "k_self": 0}, "k_self is 0 .*expected 1 or more, or --pool-role"),
        ({"mixup_alpha": 0}, "mixup_alpha is 0 .*expected more than 0"),
        ({"mixup_alpha": float("nan")}, "mixup_alpha is nan .*expected a finite number"),
        (
            {"method": "mix-diff", "pool_role": "extra", "average": "mixed-only"},
            "leaves the public images out",
        ),
    ],
)
def test_a_value_outside_a_methods_bounds_is_refused(settings, message):
    with pytest.raises(DpmixError, match=message):
        ViewSpec(**settings)


SPECS = st.builds(
    ViewSpec,
    st.sampled_from(["mix-self", "mix-diff"]),
    k_base=st.integers(1, 20),
    k_self=st.integers(1, 20),
    k_diff=st.integers(1, 4),
    average=st.sampled_from(["all", "mixed-only"]),
) | st.builds(ViewSpec, st.just("self-aug"), k_base=st.integers(1, 20))


@given(SPECS, st.integers(0, 60))
def test_m_views_with_no_kind_fewer_than_before(spec, more):
    whole = enlarged(spec, spec.views + more)
    assert whole.views == spec.views + more
    assert sum(kinds(whole)) == whole.views
    assert all(now >= before for now, before in zip(kinds(whole), kinds(spec), strict=True))
    assert (whole.method, whole.average) == (spec.method, spec.average)


def test_the_papers_views_are_enlarged_in_proportion():
    assert kinds(enlarged(ViewSpec("mix-self"), 36)) == (17, 0, 19)
    assert enlarged(ViewSpec("mix-diff"), 36) == ViewSpec("mix-diff")
    assert enlarged(ViewSpec("none"), 36) == ViewSpec("none")
    with pytest.raises(DpmixError, match=r"cache_views is 33; a step of mix-self averages 34"):
        enlarged(ViewSpec("mix-self"), 33)
