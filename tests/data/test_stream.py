import numpy as np
import pytest
import torch

from dpmix.data import stream
from dpmix.data.stream import decode_files
from dpmix.errors import DpmixError


@pytest.fixture
def paths(tmp_path, picture):
    files = []
    for seed, mode in enumerate(["RGB", "L", "RGBA", "P", "RGB"]):
        files.append(tmp_path / f"{seed}.png")
        picture(mode, 8 + seed, 8, seed).save(files[-1])
    return files


def test_everything_comes_out_in_the_models_form(paths, picture):
    (batch,) = decode_files(paths, (3, 8, 8))
    assert batch.shape == (5, 3, 8, 8)
    assert torch.equal(batch[0], torch.from_numpy(np.array(picture()).transpose(2, 0, 1)))


def test_batches_are_bounded_and_in_order(paths, monkeypatch):
    (whole,) = decode_files(paths, (1, 6, 5), workers=1)
    monkeypatch.setattr(stream, "_MAX_BATCH_BYTES", 2 * 30)
    batches = list(decode_files(paths, (1, 6, 5)))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.equal(torch.cat(batches), whole)


def test_a_bad_file_is_named(paths, truncate):
    truncate(paths[3])
    with pytest.raises(DpmixError, match=r"3\.png' cannot be decoded"):
        list(decode_files(paths, (3, 8, 8)))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DpmixError, match="cannot be read"):
        list(decode_files([tmp_path / "gone.png"], (3, 8, 8)))


def test_no_files_give_no_batches():
    assert list(decode_files([], (3, 8, 8))) == []
