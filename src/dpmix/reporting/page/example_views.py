"""Views as a run's method makes them, of pictures that are drawn and belong to nobody.

Guarantee: no image of a data set is in them. Crops, flips, partners and weights are those that the
run's own code draws, from public coins.
"""

from dataclasses import dataclass

import numpy as np

from dpmix.config import Config
from dpmix.views.coins import ViewCoins, draw_coins
from dpmix.views.spec import ViewSpec

SIDE = 100
_SHOWN, _SEED = 8, 1
PRIVATE, OTHER_PRIVATE, PUBLIC = "boat", "tree", ("house", "hills")


@dataclass(frozen=True)
class View:
    """A window of SIDE x SIDE onto a picture with mirrored borders.

    Attributes:
        picture: which.
        x: its left edge; 0 cuts nothing off.
        y: its top edge.
        flip: whether it is mirrored afterwards.
    """

    picture: str
    x: float
    y: float
    flip: bool

    @property
    def transform(self) -> str:
        """Of the picture, so that the window lies at the origin."""
        moved = f"translate({-self.x:g} {-self.y:g})"
        return f"translate({SIDE} 0) scale(-1 1) {moved}" if self.flip else moved


@dataclass(frozen=True)
class Mixture:
    """`weight` of `first` and the rest of `second`, which are numbers of unmixed views."""

    first: int
    second: int
    weight: float


@dataclass(frozen=True)
class ExampleViews:
    """Views of one group.

    Attributes:
        base: of the private picture; of two in turns, where a method joins examples.
        public: of public pictures.
        mixed: of these.
        shown: so many of each are to be shown.
        averaged: whether the unmixed views enter the mean gradient.
    """

    base: tuple[View, ...]
    public: tuple[View, ...]
    mixed: tuple[Mixture, ...]
    averaged: bool
    shown: int = _SHOWN

    @property
    def unmixed(self) -> tuple[View, ...]:
        """Views before mixing."""
        return self.base + self.public


def example_views(config: Config) -> ExampleViews:
    """The views of one group, as the settings of a run make them."""
    spec = config.view_spec(flip=False)
    coins = draw_coins(spec, 1, np.random.default_rng(_SEED))
    assert config.input is not None
    views = [_view(spec, coins, place, config.input.image_shape) for place in
             range(spec.unmixed_views)]  # fmt: skip
    mixtures = zip(*(part[0].tolist() for part in (coins.first, coins.second, coins.weight)),
                   strict=True)  # fmt: skip
    return ExampleViews(
        base=tuple(views[: spec.base_views]),
        public=tuple(views[spec.base_views :]),
        mixed=tuple(Mixture(first, second, round(weight, 3)) for first, second, weight in mixtures),
        averaged=spec.average == "all",
    )


def _view(spec: ViewSpec, coins: ViewCoins, place: int, shape: tuple[int, int, int]) -> View:
    if place >= spec.base_views:
        picture = PUBLIC[(place - spec.base_views) % len(PUBLIC)]
    else:
        picture = (PRIVATE, OTHER_PRIVATE)[place % spec.examples_per_group]
    padding = 0 if spec.method == "none" else spec.crop_padding
    top, left, flip = (int(part[0, place]) for part in (coins.top, coins.left, coins.flip))
    # A crop at `left` of a mirrored image is the mirrored crop at 2p - left.
    across = padding - left if flip else left - padding
    height, width = shape[1:]
    return View(
        picture, x=round(SIDE * across / width, 2), y=round(SIDE * (top - padding) / height, 2),
        flip=bool(flip),
    )  # fmt: skip
