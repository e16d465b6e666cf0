"""Weights that are not those of the run's model are refused."""

import pytest
import torch
from safetensors.torch import save_file

from dpmix.errors import DpmixError
from dpmix.runs.load import load_weights


def test_what_is_written_is_read_back(tmp_path):
    path, model, other = tmp_path / "w.safetensors", torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    save_file(model.state_dict(), path)
    load_weights(path, other)
    assert torch.equal(model.weight, other.weight) and torch.equal(model.bias, other.bias)


def test_weights_of_another_model_damaged_or_missing_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    with pytest.raises(DpmixError, match="no weights at"):
        load_weights(path, torch.nn.Linear(1, 1))
    save_file(torch.nn.Linear(2, 3).state_dict(), path)
    with pytest.raises(DpmixError, match="do not fit the model"):
        load_weights(path, torch.nn.Linear(4, 3))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DpmixError, match="damaged"):
        load_weights(path, torch.nn.Linear(2, 3))
