"""Where labelled images come from: built-in digits, `.npz` files and image folders.

Everything arrives as `ImageSource`s of uint8 pixels behind one `Splits`; no statistic of the images
is ever computed here.
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
