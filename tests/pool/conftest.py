"""Private data for a pool to be read for, and a diffusion model small enough to draw one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits
from dpmix.pool.diffusion_model import load_model


@pytest.fixture
def private() -> Callable[..., Splits]:
    """private(("ant", "bee"), shape=(3, 8, 8)): private data of that form."""

    def build(names=("ant", "bee"), shape=(3, 8, 8)) -> Splits:
        rng = np.random.default_rng(321)

        def side(count):
            pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
            labels = torch.arange(count) % len(names)
            return TensorSource(torch.from_numpy(pixels), labels, names)

        return Splits("private", side(3 * len(names)), side(len(names)), flip=True)

    return build


@pytest.fixture(scope="session")
def load(models):
    """load(folder, dtype=...): the model in a folder; without one, the tiny text-to-image model."""

    def call(folder=models / "sd", **settings):
        chosen = {
            "revision": None, "download": False, "licence": None, "device": torch.device("cpu"),
            "dtype": torch.float32,
        }  # fmt: skip
        return load_model(str(folder), **(chosen | settings))

    return call
