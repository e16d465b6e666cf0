"""Weights on disk."""

import pytest
import torch

from dpmix.errors import DpmixError
from dpmix.runs.load import load_weights, weight_bytes


def test_what_is_written_is_read_back(tmp_path):
    path, model, other = tmp_path / "w.safetensors", torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    path.write_bytes(weight_bytes(model.state_dict()))
    load_weights(path, other)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)


def test_weights_of_another_model_damaged_or_missing_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(DpmixError, match="no weights at"):
        load_weights(path, torch.nn.Linear(1, 1))
    path.write_bytes(weight_bytes(torch.nn.Linear(2, 3).state_dict()))
    with pytest.raises(DpmixError, match="do not fit the model"):
        load_weights(path, torch.nn.Linear(4, 3))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DpmixError, match="damaged"):
        load_weights(path, torch.nn.Linear(2, 3))
