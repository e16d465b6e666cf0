"""The pictures of views are cut as the run's own code cuts."""

import pytest
import torch

from dpmix.reports.page import SIDE, example_views
from dpmix.views.augment import self_augment
from example_facts import facts

PIXELS = 8


def test_every_window_is_the_crop_of_self_augment(monkeypatch):
    drawn = {}

    def draw(spec, groups, rng):
        drawn["random draws"] = real(spec, groups, rng)
        return drawn["random draws"]

    from dpmix.reports import page as module

    real = module.draw_views
    monkeypatch.setattr(module, "draw_views", draw)
    found = example_views(facts(crop_padding=3).config)
    draws, count = drawn["random draws"], len(found.base)
    # A pixel's value is its place.
    place = torch.arange(PIXELS * PIXELS, dtype=torch.uint8).reshape(1, 1, PIXELS, PIXELS)
    crops = self_augment(place, torch.zeros(1, count, dtype=torch.int64), draws.top, draws.left,
                         draws.flip, 3)[0, :, 0]  # fmt: skip
    assert any(view.flip for view in found.base) and not all(view.flip for view in found.base)
    for view, crop in zip(found.base, crops, strict=True):
        across, down = round(view.x * PIXELS / SIDE), round(view.y * PIXELS / SIDE)
        for row in range(PIXELS):
            for column in range(PIXELS):
                x = across + (PIXELS - 1 - column if view.flip else column)
                y = down + row
                if 0 <= x < PIXELS and 0 <= y < PIXELS:
                    assert crop[row, column] == PIXELS * y + x


@pytest.mark.parametrize(("settings", "counts"), [
    ({"method": "none"}, (1, 0, 0)), ({"method": "self-aug"}, (16, 0, 0)),
    ({"method": "mix-self"}, (16, 0, 18)), ({"method": "mix-diff", "k_diff": 3}, (16, 3, 18)),
    ({"method": "microbatch-mixup", "k_base": 4}, (4, 0, 18)),
])  # fmt: skip
def test_there_are_as_many_as_the_method_makes(settings, counts):
    found = example_views(facts(**settings).config)
    assert (len(found.base), len(found.public), len(found.mixed)) == counts
    for mix in found.mixed:
        assert max(mix.first, mix.second) < len(found.unmixed) and 0 <= mix.weight <= 1
    pictures = {view.picture for view in found.base}
    assert pictures == ({"boat", "tree"} if settings["method"] == "microbatch-mixup" else {"boat"})
    assert not pictures & {view.picture for view in found.public}


def test_the_image_itself_is_whole():
    (view,) = example_views(facts(method="none").config).base
    assert (view.x, view.y, view.flip) == (0, 0, False)


def test_they_are_the_same_each_time():
    assert example_views(facts().config) == example_views(facts().config)
