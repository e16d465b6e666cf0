"""`.npz` files of JPEG or PNG bytes laid end to end: `train_jpeg, train_end, train_label`."""

from itertools import pairwise

import numpy as np

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.encoded import EncodedImages
from dpmix.data.npz_archive import NpzArchive
from dpmix.data.options import ReadOptions
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError


def encoded_splits(archive: NpzArchive, train: str, test: str, options: ReadOptions) -> Splits:
    """Read and decode the files of both splits, `train` and `test` as the file calls them.

    Raises:
        DpmixError: an array is missing or of another kind than expected, and as `decode_sources`
            raises.
    """
    parts = [encoded_part(archive, side) for side in (train, test)]
    names = archive.class_names(*(part.labels for part in parts))
    archive.refuse_gaps(*(part.labels for part in parts))
    (train_source, test_source), _ = decode_sources(parts, names, options)
    return Splits(archive.path.stem, train_source, test_source, flip=True)


def encoded_part(archive: NpzArchive, side: str) -> EncodedPart:
    """The encoded images `{side}_jpeg` and their labels.

    Raises:
        DpmixError: an array is missing or of another kind than expected.
    """
    key = f"{side}_jpeg"
    blob = archive.array(key)
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise DpmixError(
            f"{archive.path.name}: '{key}' is {blob.dtype} {list(blob.shape)}; "
            "expected uint8 bytes in one row"
        )
    ends = _ends(archive, f"{side}_end", len(blob))
    data = np.ascontiguousarray(blob).data
    spans = zip([0, *ends[:-1]], ends, strict=True)
    contents = tuple(data[start:end] for start, end in spans)
    images = EncodedImages(tuple(f"{key}[{i}]" for i in range(len(ends))), contents)
    return EncodedPart(images, archive.labels(f"{side}_label", len(ends)))


def _ends(archive: NpzArchive, name: str, size: int) -> list[int]:
    value = archive.array(name)
    if value.dtype.kind not in "iu" or value.ndim != 1 or not len(value):
        raise DpmixError(
            f"{archive.path.name}: '{name}' is {value.dtype} {list(value.shape)}; "
            "expected the end offset of every image, at least one"
        )
    ends: list[int] = value.tolist()
    if ends[0] <= 0 or any(b <= a for a, b in pairwise(ends)):
        raise DpmixError(
            f"{archive.path.name}: '{name}' does not increase; expected ascending end offsets"
        )
    if ends[-1] != size:
        raise DpmixError(
            f"{archive.path.name}: '{name}' ends at {ends[-1]} of {size} bytes; "
            "expected the last offset to be their number"
        )
    return ends
