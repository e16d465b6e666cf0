"""The device of a run."""

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.runs.build import choose_device


def test_auto_takes_the_best_there_is():
    expected = "cuda" if torch.cuda.is_available() else None
    if expected is None:
        expected = "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected


def test_one_by_name():
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["tpu9", "cuda:99", "meta0"])
def test_one_that_is_not_there_is_one_line(name):
    with pytest.raises(DpmixError, match=f"device '{name}' cannot be used.*use --device cpu"):
        choose_device(name)
