"""More views than a step takes, of the same kinds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpmix.errors import DpmixError
from dpmix.views import ViewSpec
from dpmix.views.spec import enlarged, kinds

SPECS = st.one_of(
    st.builds(ViewSpec, st.just("self-aug"), k_base=st.integers(1, 20)),
    st.builds(
        ViewSpec,
        st.sampled_from(["mix-self", "mix-diff"]),
        k_base=st.integers(1, 20),
        k_self=st.integers(1, 20),
        k_diff=st.integers(1, 4),
        average=st.sampled_from(["all", "mixed-only"]),
    ),
)


@given(SPECS, st.integers(0, 60))
def test_m_views_with_no_kind_fewer_than_before(spec, more):
    whole = enlarged(spec, spec.views + more)
    assert whole.views == spec.views + more
    assert sum(kinds(whole)) == whole.views
    assert all(now >= before for now, before in zip(kinds(whole), kinds(spec), strict=True))
    assert (whole.method, whole.average) == (spec.method, spec.average)


def test_the_papers_views():
    assert kinds(enlarged(ViewSpec("mix-self"), 36)) == (17, 0, 19)
    assert enlarged(ViewSpec("mix-diff"), 36) == ViewSpec("mix-diff")
    assert enlarged(ViewSpec("none"), 36) == ViewSpec("none")


def test_fewer_than_a_step_takes_are_refused():
    with pytest.raises(DpmixError, match=r"cache_views is 33; a step of mix-self averages 34"):
        enlarged(ViewSpec("mix-self"), 33)
