import numpy as np
import pytest
import torch

from dpmix.data import decode as stream
from dpmix.data.decode import decode_files
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


def test_all_bad_files_are_named_at_once(paths, picture, monkeypatch):
    """Also in later batches, also what is refused for other reasons than damage."""
    monkeypatch.setattr(stream, "_MAX_BATCH", 2)
    picture("I;16").save(paths[1])
    paths[3].write_bytes(b"junk")
    paths[4].unlink()
    with pytest.raises(DpmixError) as refused:
        list(decode_files(paths, (3, 8, 8)))
    said = str(refused.value)
    assert said.startswith("3 image(s) cannot be decoded")
    assert f"'{paths[1]}' (has more than 8 bits a channel" in said
    assert (
        f"'{paths[3]}' (not an image" in said and f"'{paths[4]}' (cannot be read (No such" in said
    )
    assert "--skip-corrupt" in said


def test_bad_files_are_left_out_where_asked_for(paths, monkeypatch):
    good = torch.cat(list(decode_files([paths[0], paths[2], paths[4]], (3, 8, 8))))
    monkeypatch.setattr(stream, "_MAX_BATCH", 2)
    for bad in (1, 3):
        paths[bad].write_bytes(b"junk")
    skipped = {}
    batches = list(decode_files(paths, (3, 8, 8), skipped=skipped))
    assert torch.equal(torch.cat(batches), good)
    assert list(skipped) == [paths[1], paths[3]]


def test_of_many_bad_files_fifty_are_named(paths):
    gone = [paths[0].with_name(f"gone{i}.png") for i in range(70)]
    with pytest.raises(DpmixError, match=r"^70 image.*gone49\.png' and 20 more; repair"):
        list(decode_files(gone, (3, 8, 8)))


def test_no_files_give_no_batches():
    assert list(decode_files([], (3, 8, 8))) == []
