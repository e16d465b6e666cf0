"""Real image files, built where a test asks for them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dpmix.data.encoded import EncodedImages


def _picture(mode: str, height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(pixels[..., 0]).convert(mode)
    rgb = Image.fromarray(pixels[..., :3])
    if mode in ("RGBA", "LA"):
        return Image.fromarray(pixels).convert(mode)
    return rgb.convert(mode)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """picture(mode="RGB", height=8, width=8, seed=0): noise in a Pillow mode."""
    return lambda mode="RGB", height=8, width=8, seed=0: _picture(mode, height, width, seed)


@pytest.fixture
def png() -> Callable[..., bytes]:
    """The same picture as PNG bytes."""

    def encode(mode="RGB", height=8, width=8, seed=0) -> bytes:
        stream = BytesIO()
        _picture(mode, height, width, seed).save(stream, "PNG")
        return stream.getvalue()

    return encode


@pytest.fixture
def encoded(png) -> Callable[..., EncodedImages]:
    """encoded(a, b, ...): encoded images from bytes; names 0, 1, ..."""

    def build(*files: bytes) -> EncodedImages:
        names = tuple(map(str, range(len(files))))
        return EncodedImages(names, tuple(map(memoryview, files)))

    return build


@pytest.fixture
def class_folder(tmp_path) -> Callable[..., Path]:
    """class_folder("root", {"cat": 3, "dog": 2}): writes root/<class>/<i>.png, all different."""

    def build(name: str, counts: dict[str, int], **kind) -> Path:
        seed = 0
        for label, count in counts.items():
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                seed += 1
                image = _picture(**({"mode": "RGB", "height": 8, "width": 8} | kind), seed=seed)
                image.save(tmp_path / name / label / f"{i}.png")
        return tmp_path / name

    return build


@pytest.fixture
def truncate() -> Callable[[Path], None]:
    """Cut a file in half."""
    return lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
