"""`dpmix recipes`."""

import pytest
import yaml

pytestmark = pytest.mark.usefixtures("unchecked")


def test_they_are_listed_with_their_network(dpmix):
    status, out, _ = dpmix("recipes", "list")
    assert status == 0
    assert len(out.splitlines()) == 46
    assert "scratch-eurosat-mix-diff" in out and "open_clip:ViT-B-16/laion2b_s34b_b88k" in out


def test_one_is_shown_with_all_that_it_inherits(dpmix):
    status, out, _ = dpmix("recipes", "show", "convnext-sun397-mix-diff")
    shown = yaml.safe_load(out)
    assert status == 0
    assert shown["data"] == {"image_size": 256, "data": "sun397"}
    assert shown["privacy"]["expected_batch_size"] == 1000
    assert "base" not in shown


def test_an_unknown_one_is_one_line(dpmix):
    status, _, err = dpmix("train", "--config", "convnext-sun397")
    assert status == 2
    assert "no recipe 'convnext-sun397'" in err
