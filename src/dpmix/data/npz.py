"""`.npz` files: arrays of pixels, or encoded images laid end to end.

Guarantee: nothing is ever unpickled.
"""

from pathlib import Path

from dpmix.data.npz_archive import NpzArchive
from dpmix.data.npz_arrays import array_splits
from dpmix.data.npz_encoded import encoded_splits
from dpmix.data.options import ReadOptions
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError


def npz_splits(path: Path, options: ReadOptions) -> Splits:
    """Load `{x,y}_{train,test}`, or `train_{jpeg,end,label}` beside `test_*` or `val_*`.

    Class names come from `class_names`, `classes`, or `wnids` + `names`; without them classes are
    named by their number.

    Raises:
        DpmixError: the file is no `.npz`, an array is missing or of another kind than expected, or
            an option does not apply.
    """
    with NpzArchive(path) as archive:
        if "x_train" in archive:
            return array_splits(archive, options)
        if "train_jpeg" in archive:
            return encoded_splits(archive, options)
        raise DpmixError(
            f"{path.name} holds neither 'x_train' nor 'train_jpeg', only: "
            f"{', '.join(archive.names) or 'nothing'}; expected x_train, y_train, x_test, y_test"
        )
