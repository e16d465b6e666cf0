"""`.npz` files: arrays of pixels, or encoded images laid end to end.

Guarantee: nothing is ever unpickled.
"""

import re
from pathlib import Path

from dpmix.data.npz_archive import NpzArchive
from dpmix.data.npz_arrays import array_splits
from dpmix.data.npz_encoded import encoded_splits
from dpmix.data.options import ReadOptions
from dpmix.data.split_names import Side, judged_side, named_sides, side_of
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError

_ENCODED = "{}_jpeg"
LABELS_OF = {"x_{}": "y_{}", "X_{}": "y_{}", "{}_images": "{}_labels", _ENCODED: "{}_label"}
"""What arrays of images are called, {} in place of the split, and the labels next to them."""


def npz_splits(path: Path, options: ReadOptions) -> Splits:
    """Load `x_train, y_train, x_test, y_test`, or one of the other layouts of `LABELS_OF`.

    The splits may be called as `side_of` knows them. Class names come from `class_names`,
    `classes`, or `wnids` + `names`; without them classes are named by their number.

    Raises:
        DpmixError: the file is no `.npz`, an array is missing or of another kind than expected, it
            has two layouts, or an option does not apply.
    """
    with NpzArchive(path) as archive:
        images, sides = _layout(archive)
        train, test = sides["train"], judged_side(sides, path.name)
        if test is None:
            raise DpmixError(
                f"{path.name} has '{images.format(train)}' but neither '{images.format('test')}' "
                f"nor '{images.format('val')}'; expected a test split in the same layout: add one"
            )
        if images == _ENCODED:
            return encoded_splits(archive, train, test, options)
        return array_splits(archive, (images, LABELS_OF[images]), train, test, options)


def _layout(archive: NpzArchive) -> tuple[str, dict[Side, str]]:
    """The key of `LABELS_OF` that the file's arrays follow, and what its splits are called."""
    layouts = {key: sides for key in LABELS_OF if "train" in (sides := _sides(archive, key))}
    if not layouts:
        raise DpmixError(
            f"{archive.path.name} holds neither 'x_train' nor 'train_images' nor 'train_jpeg', "
            f"only: {', '.join(archive.names) or 'nothing'}; expected x_train, y_train, x_test, "
            "y_test"
        )
    if len(layouts) > 1:
        both = " and ".join(f"'{key.format(sides['train'])}'" for key, sides in layouts.items())
        raise DpmixError(
            f"{archive.path.name} has {both}; expected training images in one of them: save a "
            "file for each"
        )
    return layouts.popitem()


def _sides(archive: NpzArchive, key: str) -> dict[Side, str]:
    found = (re.fullmatch(key.format("(.+)"), name) for name in archive.names)
    return named_sides((one[1] for one in found if one and side_of(one[1])), archive.path.name)
