"""M views for a method that averages K of them a step: the same kinds, in the same proportions.

Guarantee: of each kind (self-augmented, public, mixed) there are at least as many as a step takes.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from dpmix.data.splits import shares
from dpmix.errors import DpmixError, nearest
from dpmix.views.extra_augment import ExtraAugment

# `ViewSpec`: which views of an example are made, and what that does to the sensitivity.


Method = Literal["none", "self-aug", "mix-self", "mix-diff", "microbatch-mixup"]


Average = Literal["all", "mixed-only"]


PoolDraw = Literal["uniform", "same-class", "other-class"]


PoolRole = Literal["mix", "extra"]


_CHOICES = {
    "average": Average,
    "extra_augment": ExtraAugment,
    "pool_draw": PoolDraw,
    "pool_role": PoolRole,
}


METHODS: tuple[str, ...] = get_args(Method)


MIXING: frozenset[str] = frozenset({"mix-self", "mix-diff", "microbatch-mixup"})


_OF_AUGMENTING = frozenset({"k_base", "crop_padding", "flip", "extra_augment"})


_OF_MIXING = frozenset({"k_self", "mixup_alpha", "average"})


_OF_PUBLIC = frozenset({"k_diff", "pool_draw", "pool_role"})


@dataclass(frozen=True)
class ViewSpec:
    """The views of one example (DP-Mix, arXiv 2311.01295; De et al. 2022 for `self-aug`).

    Attributes:
        method: `none` (the image itself), `self-aug` (K_BASE augmentations), `mix-self` (plus
            K_SELF mixups among them), `mix-diff` (K_DIFF public images join the pool first), or
            `microbatch-mixup` (naive mixup across two private examples: sensitivity 2C).
        k_base: K_BASE, self-augmentations of the private image.
        k_self: K_SELF, mixups of pairs drawn uniformly from the whole pool.
        k_diff: K_DIFF, public images in the pool; only `mix-diff` reads it.
        mixup_alpha: alpha of Beta(alpha, alpha), from which each mixture's weight is drawn.
        crop_padding: reflect padding in pixels before the random crop.
        flip: mirror each augmented view with probability 1/2.
        extra_augment: what each crop goes through after that, by random draws of its own
            (`views/extra_augment.py`): the paper's control for mixing.
        average: `all` views enter the mean gradient, or the mixtures alone (`mixed-only`).
        pool_draw: which public images an example draws: any (`uniform`, as in the paper), of its
            own class, or of the other classes. Only `mix-diff` reads it.
        pool_role: whether public images `mix` with the base views and stand beside them, or only
            stand beside them (`extra`), which shows what mixing itself adds. Only `mix-diff` reads
            it.

    Raises:
        DpmixError: a count, alpha or name that cannot be meant.
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

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise DpmixError(f"unknown method '{self.method}': {nearest(self.method, METHODS)}")
        for name, kind in _CHOICES.items():
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise DpmixError(f"{name} is '{value}': {nearest(value, known)}")
        for name in ("k_base", "k_self", "k_diff", "crop_padding"):
            if getattr(self, name) < 0:
                raise DpmixError(f"{name} is {getattr(self, name)}; expected 0 or more")
        self._check_method()

    def _check_method(self) -> None:
        least = 2 if self.method == "microbatch-mixup" else 1
        if self.k_base < least and self.method != "none":
            raise DpmixError(
                f"k_base is {self.k_base}; method {self.method} needs at least {least}"
            )
        if self.method == "none" and self.extra_augment != "none":
            raise DpmixError(
                f"extra_augment is '{self.extra_augment}' but method none augments nothing; use "
                "--method self-aug"
            )
        if not self.mixes:
            if self.average == "mixed-only":
                raise DpmixError(
                    f"average 'mixed-only' needs mixtures, which method {self.method} does not "
                    "make; use 'all'"
                )
            return
        extra = self.method == "mix-diff" and self.pool_role == "extra"
        if self.k_self == 0 and not extra:
            raise DpmixError(
                f"method {self.method} with k_self 0 mixes nothing; give --k-self 1 or more, or "
                "use --method self-aug"
            )
        if not 0 < self.mixup_alpha < float("inf"):
            raise DpmixError(f"mixup_alpha is {self.mixup_alpha}; expected a number above 0")
        if self.method == "mix-diff" and self.k_diff == 0:
            raise DpmixError(
                "method mix-diff with k_diff 0 reads no public image; give --k-diff 1 or more, or "
                "use --method mix-self"
            )
        if extra and self.average == "mixed-only":
            raise DpmixError(
                "pool_role extra with average mixed-only leaves the public images out altogether; "
                "use --average all"
            )

    @property
    def unread(self) -> frozenset[str]:
        """The settings that the method does not read, whatever they are."""
        augmenting = _OF_AUGMENTING if self.method == "none" else frozenset()
        mixing = frozenset() if self.mixes else _OF_MIXING
        public = frozenset() if self.method == "mix-diff" else _OF_PUBLIC
        return augmenting | mixing | public

    @property
    def mixes(self) -> bool:
        """Whether the method makes mixtures."""
        return self.method in MIXING

    @property
    def base_views(self) -> int:
        """Views of private pixels before mixing."""
        return 1 if self.method == "none" else self.k_base

    @property
    def public_views(self) -> int:
        """Public images beside the views of one example."""
        return self.k_diff if self.method == "mix-diff" else 0

    @property
    def unmixed_views(self) -> int:
        """Views before mixing, private and public."""
        return self.base_views + self.public_views

    @property
    def pool_size(self) -> int:
        """Views from which mixtures are drawn: the first of the unmixed ones."""
        return self.unmixed_views if self.pool_role == "mix" else self.base_views

    @property
    def mixed_views(self) -> int:
        """Mixtures."""
        return self.k_self if self.mixes else 0

    @property
    def views(self) -> int:
        """K: the views over which one clipped gradient is averaged."""
        return self.mixed_views + (self.unmixed_views if self.average == "all" else 0)

    @property
    def examples_per_group(self) -> int:
        """Private examples behind one clipped gradient: 2 for `microbatch-mixup`, else 1."""
        return 2 if self.method == "microbatch-mixup" else 1

    @property
    def sensitivity_multiplier(self) -> int:
        """Sensitivity of the sum of clipped gradients, in units of C, under add/remove-one.

        1 where a view set reads one private example: adding or removing the example adds or
        removes one vector of norm at most C. That holds for every `pool_draw`: which public images
        join depends on the example's own label at most (`public/class_index.py`). 2 for
        `microbatch-mixup`: `views/microbatch.py` proves it.
        """
        return self.examples_per_group


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
