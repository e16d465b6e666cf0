"""Small real data that several tests train on."""

from pathlib import Path

import jaxtyping
import numpy as np
import pytest
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


@pytest.fixture
def unchecked(monkeypatch):
    """Runs the package as users do, without checks of annotations.

    For tests that pass what the annotations forbid, and for those that watch the generators and the
    warnings, which the type checker uses too.
    """
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def image_root(tmp_path):
    """`images/{train,test}/{disc,stripes}/*.png`: 40 training and 10 test images of each class."""
    rng = np.random.default_rng(5)
    for side, count in (("train", 40), ("test", 10)):
        write_class_folders(tmp_path / "images" / side, count, rng)
    return tmp_path / "images"


@pytest.fixture
def digits_npz(tmp_path):
    """A tiny npz in the `x_train, y_train, x_test, y_test` layout, two classes, 12 x 12 grey."""
    rng = np.random.default_rng(6)

    def split(count):
        labels = np.arange(count) % 2
        return np.stack([draw(label, rng) for label in labels]), labels

    (x_train, y_train), (x_test, y_test) = split(60), split(16)
    path = tmp_path / "tiny.npz"
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return path


@pytest.fixture
def quick():
    """Settings of a run that takes a second."""
    return {
        "expected_batch_size": 10,
        "steps": 2,
        "k_base": 2,
        "k_self": 2,
        "epsilon": 2,
        "delta": 1e-3,
        "crop_padding": 2,
    }
