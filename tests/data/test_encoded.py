import pytest
import torch

from dpmix.data.decode_pool import EncodedImages
from dpmix.errors import DpmixError


def test_opens_files_and_bytes_alike(tmp_path):
    (tmp_path / "a").write_bytes(b"file")
    images = EncodedImages(("a", "b"), (tmp_path / "a", memoryview(b"bytes")))
    for index, expected in enumerate((b"file", b"bytes")):
        with images.open(index) as stream:
            assert stream.read() == expected


def test_take_and_add_keep_names_beside_contents(encoded):
    images = encoded(b"0", b"1", b"2")
    joined = images.take(torch.tensor([2, 0])) + images.take(torch.tensor([1]))
    assert joined.names == ("2", "0", "1")
    assert [bytes(content) for content in joined.contents] == [b"2", b"0", b"1"]


def test_a_vanished_file_is_named(tmp_path):
    with pytest.raises(DpmixError, match=r"'cat/1\.png' cannot be read"):
        EncodedImages(("cat/1.png",), (tmp_path / "gone",)).open(0)
