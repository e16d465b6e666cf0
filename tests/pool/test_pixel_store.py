"""A pool's pixels, in memory and mapped from a file."""

import errno
import tempfile

import numpy as np
import pytest
import torch

from dpmix.data import decode
from dpmix.data.decode import EncodedSource, decode_sources
from dpmix.data.folder import class_folders
from dpmix.data.image import ReadOptions
from dpmix.errors import DpmixError
from dpmix.pool.pool import stored_pixels


@pytest.fixture
def sources(class_folder, monkeypatch):
    """The same images decoded in memory and, too large for the bound, left encoded."""
    names, part = class_folders(class_folder("pool", {"ant": 5, "bee": 4}))
    (small,), _ = decode_sources([part], names, ReadOptions())
    monkeypatch.setattr(decode, "MAX_BYTES_IN_MEMORY", 100)
    (large,), _ = decode_sources([part], names, ReadOptions())
    return small, large


def test_mapped_pixels_equal_those_in_memory(sources, monkeypatch):
    monkeypatch.setattr("dpmix.pool.pool._BATCH", 2)
    small, large = sources
    assert isinstance(large, EncodedSource)
    assert stored_pixels(small) is small.pixels
    mapped = stored_pixels(large)
    assert torch.equal(mapped, small.pixels)
    index = torch.tensor([8, 0, 3])
    assert torch.equal(mapped[index], small.pixels[index])


def test_the_file_has_no_name_and_holds_the_pixels_outside_memory(sources, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    maps = []
    real = np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **k: maps.append(real(*a, **k)) or maps[-1])
    mapped = stored_pixels(sources[1])
    assert mapped.data_ptr() == maps[0].ctypes.data
    assert not list((tmp_path / "temporary").iterdir())


def test_a_full_disk_is_an_error_and_not_a_crash(sources, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    with pytest.raises(DpmixError, match=r"do not fit in .* \(No space left on device\).*TMPDIR"):
        stored_pixels(sources[1])
