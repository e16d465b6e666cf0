"""Which backbone a machine without a network can load."""

import pytest

from dpmix.models.backbones import load as module
from dpmix.models.backbones.load import CLIP, best_reachable, other_backbones


def test_the_best_that_is_there_is_chosen(monkeypatch):
    monkeypatch.setattr(module, "_has_clip", lambda: True)
    assert best_reachable() == CLIP
    monkeypatch.setattr(module, "_has_clip", lambda: False)
    monkeypatch.setattr(module, "offline_weights", lambda: "a path")
    assert best_reachable() == "mobilenet-v2-offline"
    monkeypatch.setattr(module, "offline_weights", lambda: None)
    assert best_reachable() == "scatternet"


def test_the_hint_names_what_is_at_hand_and_promises_nothing(monkeypatch):
    monkeypatch.setattr(module, "_has_clip", lambda: False)
    monkeypatch.setattr(module, "offline_weights", lambda: "a path")
    assert other_backbones(CLIP) is None
    for chosen, other in (
        ("mobilenet-v2-offline", "--backbone scatternet"),
        ("scatternet", "--backbone mobilenet-v2-offline"),
    ):
        said = other_backbones(chosen)
        assert f"{other}, or " in said and f"--backbone {chosen}" not in said
        assert said.endswith(f"--backbone {CLIP} --download")
        assert "may do better or worse on your kind of image" in said
    monkeypatch.setattr(module, "offline_weights", lambda: None)
    assert "mobilenet" not in other_backbones("random-conv")
    monkeypatch.setattr(module, "_has_clip", lambda: True)
    assert "--download" not in other_backbones("scatternet")


@pytest.mark.parametrize("there", [True, False])
def test_it_asks_for_no_package_that_is_there(monkeypatch, there):
    monkeypatch.setattr(module, "find_spec", lambda _: there or None)
    assert (".[backbones]" in other_backbones("scatternet")) != there
