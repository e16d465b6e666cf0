"""M views for a method that averages K of them a step: the same kinds, in the same proportions.

Guarantee: of each kind (self-augmented, public, mixed) there are at least as many as a step takes.
"""

from dataclasses import replace

from dpmix.data.splits import shares
from dpmix.errors import DpmixError
from dpmix.views.spec import ViewSpec


def kinds(spec: ViewSpec) -> tuple[int, int, int]:
    """How many views of each kind enter the average: self-augmented, public, mixed; in order."""
    if spec.average == "mixed-only":
        return 0, 0, spec.mixed_views
    return spec.base_views, spec.public_views, spec.mixed_views


def enlarged(spec: ViewSpec, views: int) -> ViewSpec:
    """The spec whose K is `views`; mixtures are then drawn from its larger pool.

    Method `none` has one view of an image, however many are asked for.

    Raises:
        DpmixError: fewer views than a step takes.
    """
    if spec.method == "none":
        return spec
    if views < spec.views:
        raise DpmixError(
            f"cache_views is {views}; a step of {spec.method} averages {spec.views} views: "
            f"expected {spec.views} or more, or fewer --k-base and --k-self"
        )
    base, public, mixed = kinds(spec)
    more = shares([base, public, mixed], views)
    # In `mixed-only` the pool that is mixed from does not enter the average and stays as it is.
    return replace(
        spec,
        k_base=more[0] or spec.k_base,
        k_diff=more[1] or spec.k_diff,
        k_self=more[2] if spec.mixes else spec.k_self,
    )
