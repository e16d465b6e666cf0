"""Small pictures: learnable shapes, and noise in every mode of Pillow."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("disc", "stripes")


def draw(label: int, rng: np.random.Generator, size: int = 12) -> np.ndarray:
    """A noisy disc or noisy stripes: a real, learnable difference."""
    y, x = np.mgrid[:size, :size]
    shape = (np.hypot(y - size / 2, x - size / 2) < size / 3) if label == 0 else (x // 2 % 2 == 0)
    return np.clip(shape * 180 + rng.normal(30, 25, (size, size)), 0, 255).astype(np.uint8)


def write_class_folders(root: Path, per_class: int, rng: np.random.Generator) -> Path:
    for label, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(per_class):
            Image.fromarray(draw(label, rng)).save(folder / f"{index:03}.png")
    return root


def chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def raw_png(width=8, height=8, depth=8, colour=0, data=b"\0" * 72, more=b"") -> bytes:
    """A PNG by hand, of any header; `more` are chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more
    return start + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def noise_picture(mode: str, height: int, width: int, seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode in ("I", "F"):
        return Image.fromarray(pixels[..., 0]).convert(mode)
    rgb = Image.fromarray(pixels[..., :3])
    if mode in ("RGBA", "LA"):
        return Image.fromarray(pixels).convert(mode)
    return rgb.convert(mode)
