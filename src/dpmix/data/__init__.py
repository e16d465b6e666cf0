"""Where labelled images come from: digits, public sets, `.npz` files, folders and datasets.

No statistic of the images is ever computed here.
"""

from dpmix.data.decode import decode_files
from dpmix.data.named import load_splits
from dpmix.data.normalization import Normalization, normalization
from dpmix.data.source import ImageSource, TensorSource
from dpmix.data.splits import Splits

__all__ = [
    "ImageSource",
    "Normalization",
    "Splits",
    "TensorSource",
    "decode_files",
    "load_splits",
    "normalization",
]
