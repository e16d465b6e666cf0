"""JSON without what JSON does not have."""

import json

import pytest

from dpmix.files import to_json


def test_json_has_no_infinity_or_nan():
    text = to_json({"a": [float("inf"), float("nan"), 1.5], "b": {"c": -float("inf")}})
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": ["inf", "nan", 1.5],
        "b": {"c": "-inf"},
    }
