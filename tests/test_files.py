"""Files are written whole or not at all; JSON without what JSON does not have."""

import json

import pytest

from dpmix.errors import DpmixError
from dpmix.files import stage, to_json, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_full_disk_leaves_the_old_text_and_no_litter(tmp_path, no_space):
    path = tmp_path / "metrics.json"
    write_text(path, "old")
    with pytest.raises(DpmixError, match=r"cannot write '.*metrics\.json'.*earlier file is unharm"):
        write_text(path, "new" * 10_000)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["metrics.json"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "card.md"
    write_text(path, "old")

    def interrupted(aside):
        aside.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage(path, interrupted)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["card.md"]


def test_json_has_no_infinity_or_nan():
    text = to_json({"a": [float("inf"), float("nan"), 1.5], "b": {"c": -float("inf")}})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": ["inf", "nan", 1.5],
        "b": {"c": "-inf"},
    }
