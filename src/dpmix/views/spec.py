"""`ViewSpec`: which views of an example are averaged, and what that does to the sensitivity.

Each class below names the settings that its method reads, and their bounds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dpmix.data.splits import shares
from dpmix.errors import DpmixError, explain, nearest
from dpmix.privacy.unit import Unit
from dpmix.views.extra_augment import ExtraAugment

Method = Literal["none", "self-aug", "mix-self", "mix-diff", "microbatch-mixup"]
Average = Literal["all", "mixed-only"]
PoolDraw = Literal["uniform", "same-class", "other-class"]
PoolRole = Literal["mix", "extra"]

METHODS: tuple[str, ...] = get_args(Method)
IMAGES_PER_PERSON = 8
_OF_ALL = ("method", "images_per_person")  # settings that every method reads


class _Method(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _None(_Method):
    extra_augment: Literal["none"]
    average: Literal["all"]


class _Augmenting(_Method):
    k_base: int = Field(ge=1)
    crop_padding: int = Field(ge=0)
    flip: bool
    extra_augment: ExtraAugment


class _SelfAug(_Augmenting):
    average: Literal["all"]


class _Mixing(_Augmenting):
    k_self: int = Field(ge=1)
    mixup_alpha: float = Field(gt=0)
    average: Average


class _MicrobatchMixup(_Mixing):
    k_base: int = Field(ge=2)


class _MixDiff(_Mixing):
    k_self: int = Field(ge=0)
    k_diff: int = Field(ge=1)
    pool_draw: PoolDraw
    pool_role: PoolRole

    @model_validator(mode="after")
    def _uses_the_pool(self) -> "_MixDiff":
        if self.pool_role == "mix" and self.k_self == 0:
            raise ValueError("k_self is 0 with method mix-diff: expected 1 or more, or "
                             "--pool-role extra")  # fmt: skip
        if self.pool_role == "extra" and self.average == "mixed-only":
            raise ValueError(
                "pool_role extra with average mixed-only leaves the public images out; use "
                "--average all"
            )
        return self


_KINDS: dict[str, type[_Method]] = {
    "none": _None,
    "self-aug": _SelfAug,
    "mix-self": _Mixing,
    "mix-diff": _MixDiff,
    "microbatch-mixup": _MicrobatchMixup,
}


@dataclass(frozen=True)
class ViewSpec:
    """The views of one example (DP-Mix, arXiv 2311.01295; De et al. 2022 for `self-aug`).

    Attributes:
        method: `none` (the image itself), `self-aug` (K_BASE augmentations), `mix-self` (plus
            K_SELF mixups among them), `mix-diff` (K_DIFF public images join the pool first), or
            `microbatch-mixup` (naive mixup across two private examples: sensitivity 2C).
        k_base: K_BASE, number of self-augmentations of the private image.
        k_self: K_SELF, number of mixups of pairs drawn uniformly from the whole pool.
        k_diff: K_DIFF, number of public images in the pool; `mix-diff` alone reads it.
        mixup_alpha: alpha of Beta(alpha, alpha), from which each mixture's weight is drawn.
        crop_padding: reflect padding in pixels before the random crop.
        flip: mirror each augmented view with probability 1/2.
        extra_augment: a further augmentation of each crop, the paper's control for mixing.
        average: `all` views enter the mean gradient, or only the mixtures (`mixed-only`).
        pool_draw: `mix-diff`: any public image (`uniform`), those of the own or the other classes.
        pool_role: `mix-diff`: public images are views and mixed (`mix`), or views only (`extra`).
        images_per_person: the unit is a person: the K_BASE views are cut from up to this many of
            the person's images, drawn again at each step, as evenly as possible. None: an image.

    Raises:
        DpmixError: an unknown name, or a value outside the bounds of the method.
    """

    method: Method = "mix-self"
    k_base: int = 16
    k_self: int = 18
    k_diff: int = 2
    mixup_alpha: float = 0.2
    crop_padding: int = 4
    flip: bool = True
    extra_augment: ExtraAugment = "none"
    average: Average = "all"
    pool_draw: PoolDraw = "uniform"
    pool_role: PoolRole = "mix"
    images_per_person: int | None = None

    def __post_init__(self) -> None:
        if self.method not in _KINDS:
            raise DpmixError(f"method is {self.method!r}: {nearest(self.method, _KINDS)}")
        try:
            _KINDS[self.method].model_validate(asdict(self))
        except ValidationError as error:
            raise DpmixError(explain(error, f" with method {self.method}")) from None
        if self.images_per_person is not None and self.images_per_person < 1:
            raise DpmixError(f"images_per_person is {self.images_per_person}; expected 1 or more")

    @classmethod
    def from_settings(cls, views: Mapping[str, Any], *, flip: bool) -> "ViewSpec":
        """The views that a run's section `views` asks for.

        Args:
            views: setting -> value; names of other settings are ignored, None is a default.
            flip: whether to mirror, where the settings leave that open.
        """
        names = {field.name for field in fields(cls)}
        given = {k: value for k, value in views.items() if k in names and value is not None}
        if given.get("pool_role") == "pretrain":  # the steps after pretraining read no pool
            del given["pool_role"]
        return cls(**{"flip": flip} | given)

    @property
    def unread(self) -> frozenset[str]:
        """Names of the settings that the method does not read, whatever they are."""
        settings = _KINDS[self.method].model_fields
        # A setting with a single choice changes nothing.
        read = {name for name, one in settings.items() if len(get_args(one.annotation)) != 1}
        return frozenset(field.name for field in fields(self)) - read - {*_OF_ALL}

    @property
    def unit(self) -> Unit:
        """The unit of privacy that the views are made for."""
        return "image" if self.images_per_person is None else "person"

    @property
    def mixes(self) -> bool:
        """Whether the method makes mixtures."""
        return self.method in ("mix-self", "mix-diff", "microbatch-mixup")

    @property
    def base_views(self) -> int:
        """Number of views of private pixels before mixing."""
        return (self.images_per_person or 1) if self.method == "none" else self.k_base

    @property
    def public_views(self) -> int:
        """Number of public images among the views of one example."""
        return self.k_diff if self.method == "mix-diff" else 0

    @property
    def unmixed_views(self) -> int:
        """Number of views before mixing, private and public."""
        return self.base_views + self.public_views

    @property
    def pool_size(self) -> int:
        """Number of views that mixtures are drawn from: the first of the unmixed ones."""
        return self.unmixed_views if self.pool_role == "mix" else self.base_views

    @property
    def mixed_views(self) -> int:
        """Number of mixtures."""
        return self.k_self if self.mixes else 0

    @property
    def views(self) -> int:
        """K: the views over which one clipped gradient is averaged."""
        return self.mixed_views + (self.unmixed_views if self.average == "all" else 0)

    @property
    def examples_per_group(self) -> int:
        """Private units behind one clipped gradient: 2 for `microbatch-mixup`, else 1."""
        return 2 if self.method == "microbatch-mixup" else 1

    @property
    def sensitivity_multiplier(self) -> int:
        """Sensitivity of the sum of clipped gradients, in units of C, under add/remove-one.

        1 where a view set reads one private unit, an image or all images of a person: adding or
        removing the unit adds or removes one vector of norm at most C. That holds for every
        `pool_draw`: which public images join depends on the unit's own labels at most
        (`pool/pool.py`). 2 for `microbatch-mixup`:
        `views/mixup.py` proves it.
        """
        return self.examples_per_group


def kinds(spec: ViewSpec) -> tuple[int, int, int]:
    """How many views of each kind enter the average: (self-augmented, public, mixed)."""
    if spec.average == "mixed-only":
        return 0, 0, spec.mixed_views
    return spec.base_views, spec.public_views, spec.mixed_views


def enlarged(spec: ViewSpec, views: int) -> ViewSpec:
    """The spec whose K is `views` (M), with the kinds in the proportions of `spec`.

    Of each kind there are at least as many views as `spec` has. Mixtures are drawn from the larger
    pool. Method `none` has one view of an image. M smaller than the K of `spec` is refused. The M
    views of a person are of as many images as there are base views.
    """
    if spec.method == "none":
        if spec.images_per_person is None:
            return spec
        return replace(spec, images_per_person=max(views, spec.images_per_person))
    if views < spec.views:
        raise DpmixError(
            f"cache_views is {views}; a step of {spec.method} averages {spec.views} views: "
            f"expected {spec.views} or more, or fewer --k-base and --k-self"
        )
    more = shares(list(kinds(spec)), views)
    # With `mixed-only` the views that are mixed do not enter the average; their number stays.
    k_base = more[0] or spec.k_base
    return replace(
        spec,
        k_base=k_base,
        k_diff=more[1] or spec.k_diff,
        k_self=more[2] if spec.mixes else spec.k_self,
        images_per_person=spec.images_per_person and max(k_base, spec.images_per_person),
    )
