"""Pools, and diffusion models small enough to draw them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits


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
