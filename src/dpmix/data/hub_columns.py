"""The images, labels and class names of one split of a Hugging Face data set.

Guarantees: encoded images are views into the library's memory-mapped files, nothing is copied;
every row has a class; a row without an image is there as `Missing`, so that it counts as corrupt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dpmix.data.class_names import plain_name
from dpmix.data.decode import EncodedPart
from dpmix.data.encoded import EncodedImages, Missing
from dpmix.errors import DpmixError


def columns(where: str, side: Any) -> tuple[str, str, tuple[str, ...]]:
    """The names of the image and the class column of split `side`, and the classes.

    Of several columns of a kind, the one called `image` or `label` is taken.

    Args:
        where: the data set, for messages.
        side: a `datasets.Dataset`.

    Raises:
        DpmixError: no such column, or several and none called so.
    """
    import datasets

    kinds = side.features
    image = _only(where, "image", kinds, datasets.Image, "datasets.Image()")
    classes = "datasets.ClassLabel(names=CLASSES)"
    label = _only(where, "label", kinds, datasets.ClassLabel, classes)
    return image, label, tuple(plain_name(name) for name in kinds[label].names)


def labelled_part(
    where: str, side: Any, name: str, image: str, label: str, classes: int
) -> EncodedPart:
    """The encoded images and labels of split `side`, called `name`.

    Raises:
        DpmixError: a row without a class.
    """
    labels = side[label][:]
    if bad := [row for row, value in enumerate(labels) if not _is_class(value, classes)]:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DpmixError(
            f"{where}: split '{name}' has the label {labels[bad[0]]} in row {bad[0]}{more}; "
            f"expected a class, 0..{classes - 1}: "
            + copy_of(name, f"filter(lambda row: row[{label!r}] in range({classes}))")
        )
    contents = _contents(side, image)
    names = tuple(f"{name}[{i}]" for i in range(len(contents)))
    return EncodedPart(
        EncodedImages(names, tuple(contents)), torch.tensor(labels, dtype=torch.int64)
    )


def has_no_class(side: Any, label: str) -> bool:
    """Whether no row has a class, as in test splits whose labels are not published."""
    return len(side) > 0 and all(value is None or value < 0 for value in side[label][:])


def copy_of(side: str, step: str, written: str = "") -> str:
    """The remedy of a changed copy, as lines that `datasets` runs.

    Args:
        side: the split that is changed.
        step: what changes it.
        written: the split that it is written as; as `side` where none is given.
    """
    return (
        f"give hf:./FOLDER, of a copy: "
        f"DATA[{side!r}].{step}.to_parquet('FOLDER/{written or side}.parquet')"
    )


def _is_class(value: int | None, classes: int) -> bool:
    return value is not None and 0 <= value < classes


def _only(where: str, wanted: str, kinds: Any, kind: type, made: str) -> str:
    """The column of `kind`, called `wanted` if there are several; `made` is Python for `kind`."""
    found: list[str] = [key for key, value in kinds.items() if isinstance(value, kind)]
    if len(found) == 1:
        return found[0]
    if wanted in found:
        return wanted
    if found:
        renamed = f"rename_column({found[0]!r}, {wanted!r})"
        raise DpmixError(
            f"{where} has several {wanted} columns: {', '.join(found)}; expected one, or one "
            f"called '{wanted}': {copy_of('SPLIT', renamed)}"
        )
    if any(isinstance(getattr(value, "feature", None), kind) for value in kinds.values()):
        raise DpmixError(
            f"{where} has a list of {kind.__name__} in a row; several per image are not supported "
            "yet: expected one image and one class in a row"
        )
    column = wanted if wanted in kinds else "COLUMN"
    raise DpmixError(
        f"{where} has no column of kind {kind.__name__}, only: {_described(kinds)}; expected one: "
        + copy_of("SPLIT", f"cast_column({column!r}, {made})")
    )


def _described(kinds: Any) -> str:
    return ", ".join(f"{key} ({_kind(value)})" for key, value in kinds.items())


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    return dtype if isinstance(dtype, str) else type(value).__name__


def _contents(side: Any, image: str) -> Sequence[Path | memoryview | Missing]:
    import datasets

    encoded = side.cast_column(image, datasets.Image(decode=False)).with_format("arrow")
    contents: list[Path | memoryview | Missing] = []
    for chunk in encoded.data.column(image).chunks:
        # Flattened, so that what lies under a missing row is missing too.
        fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
        for data, path in zip(fields["bytes"], fields["path"], strict=True):
            if data.is_valid:
                contents.append(memoryview(data.as_buffer()))
            elif path.is_valid:
                contents.append(_file(path.as_py()))
            else:
                contents.append(Missing("the row has no image"))
    return contents


def _file(place: str) -> Path | Missing:
    path = Path(place)
    return path if path.exists() else Missing(f"its file '{place}' is not there")
