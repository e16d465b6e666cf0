"""Real image files, built where a test asks for them."""

from collections.abc import Callable
from io import BytesIO

import pytest
import torch
from PIL import Image

from dpmix.data.decode import EncodedImages
from pictures import noise_picture


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """picture(mode="RGB", height=8, width=8, seed=0): noise in a Pillow mode."""
    return lambda mode="RGB", height=8, width=8, seed=0: noise_picture(mode, height, width, seed)


@pytest.fixture
def png() -> Callable[..., bytes]:
    """The same picture as PNG bytes."""

    def encode(mode="RGB", height=8, width=8, seed=0) -> bytes:
        stream = BytesIO()
        noise_picture(mode, height, width, seed).save(stream, "PNG")
        return stream.getvalue()

    return encode


@pytest.fixture
def encoded() -> Callable[..., EncodedImages]:
    """encoded(a, b, ...): images from bytes; names 0, 1, ..., labels 0, 1, 0, 1, ..."""

    def build(*files: bytes) -> EncodedImages:
        names = tuple(map(str, range(len(files))))
        return EncodedImages(names, tuple(map(memoryview, files)), torch.arange(len(files)) % 2)

    return build
