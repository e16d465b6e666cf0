"""`hf:NAME` or `hf:NAME:CONFIGURATION`: data sets of the library `datasets`.

Nothing is downloaded unless asked for, no code of a data set is run, and encoded images are views
into the library's memory-mapped files. A row without an image counts as corrupt.
"""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from dpmix.data.decode import EncodedImages, decode_sources
from dpmix.data.folder import local_path
from dpmix.data.hugging_face_labels import LabelColumns
from dpmix.data.image import ReadOptions, UnreadableImageError
from dpmix.data.source import Task
from dpmix.data.splits import Splits, judged_side, named_sides, plain_name
from dpmix.errors import DpmixError, nearest, one_line, to_install

PREFIX = "hf:"
_COPY = "save each split by to_parquet('FOLDER/SPLIT.parquet'), and give hf:./FOLDER"


def hugging_face_splits(
    name: str,
    options: ReadOptions,
    download: bool,
    person_column: str | None = None,
    task: Task = "single-label",
    label_columns: tuple[str, ...] = (),
) -> Splits:
    """Load the train and test (or validation) split of the data set `name`.

    Args:
        name: on the hub, or a path that `datasets.load_dataset` reads; `:CONFIGURATION` may follow.
        options: how images are read.
        download: fetch what the local cache lacks.
        person_column: the column that names each image's person.
        task: whether an image has one class, or several labels.
        label_columns: of several labels, the columns that hold them: one with a list of classes,
            or one for each label.

    Raises:
        DpmixError: `datasets` is missing, the set can't be had, it lacks a split or a column, a row
            has no class, and as `decode_sources` raises.
    """
    on_hub = is_hub_name(name)
    if not on_hub:
        path = local_path(name)
        # Not in general: a path loses its ./, which tells it from a name on the hub.
        name = str(path) if name.startswith("~") else name
    found = re.fullmatch(r"(.+):([\w.+-]+)", name, re.DOTALL)
    place, configuration = (name, None) if not found or Path(name).exists() else found.groups()
    if not on_hub and not Path(place).exists():
        raise DpmixError(f"no file or folder '{place}'; expected a data set there: check the path")
    if on_hub and Path(place).exists():
        raise DpmixError(
            f"data '{PREFIX}{name}' is a name on the hub, and there is a folder '{place}' too; "
            f"give '{PREFIX}./{name}' for the folder, or rename the folder"
        )
    where = f"data set '{PREFIX}{name}'"
    loaded = _loaded(where, place, configuration, download)
    sides = named_sides(loaded, where)
    if "train" not in sides or len(sides) == 1:
        raise DpmixError(
            f"{where} has the splits {', '.join(loaded)}; expected 'train', and 'test' or "
            f"'validation': make them with train_test_split(0.2), {_COPY}"
        )
    kinds = loaded[sides["train"]].features
    image = _column(where, kinds, "image", "Image")
    several = None
    if task == "multi-label":
        several = LabelColumns.of(where, kinds, label_columns)
        classes, label = several.names, ""
    else:
        label = _column(where, kinds, "label", "ClassLabel")
        classes = tuple(plain_name(one) for one in kinds[label].names)
    if several is None and "test" in sides and "val" in sides:
        labels = loaded[sides["test"]][label][:]
        if labels and all(value is None or value < 0 for value in labels):
            # As in competitions: the labels of the test split are not published.
            warnings.warn(f"{where}: '{sides['test']}' has no labels and is not used", stacklevel=2)
            del sides["test"]
    test = judged_side(sides, where)
    assert test is not None
    parts = []
    for side in (sides["train"], test):
        rows = loaded[side]
        if several is None:
            truth = _classes(where, side, rows, label, len(classes))
        else:
            truth = several.labels(where, side, rows)
        parts.append(_images(side, rows, image, truth))
    if person_column is not None:
        owners = (_owners(where, loaded[side], person_column) for side in (sides["train"], test))
        parts = [replace(part, owners=own) for part, own in zip(parts, owners, strict=True)]
    (train_source, test_source), _ = decode_sources(parts, classes, options)
    title = Path(place).name + (f" {configuration}" if configuration else "")
    return Splits(title, train_source, test_source, flip=True)


def is_hub_name(name: str) -> bool:
    """Whether `name` is one on the hub, as owner/name or owner/name:configuration, and no path."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.+-]+)?", name) is not None


def _loaded(where: str, place: str, configuration: str | None, download: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise DpmixError(f"{where} needs the package datasets: {to_install('hub')}") from None
    datasets.disable_progress_bars()
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = before or not download
    try:
        return datasets.load_dataset(place, configuration)
    # A hub that is not reached and a set that is damaged raise errors of many kinds.
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:  # the outermost says only that there was an error
            cause = cause.__cause__
        remedy = "give a folder that datasets.load_dataset reads, or hf:NAME:CONFIGURATION"
        if is_hub_name(place):
            remedy += "; check the name and the network" if download else "; or give --download"
        raise DpmixError(f"{where} can't be loaded ({one_line(cause)}); {remedy}") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _column(where: str, kinds: Any, wanted: str, kind: str) -> str:
    """Return the only column of the class `datasets.<kind>`, or the one called `wanted`."""
    import datasets

    found = [key for key, value in kinds.items() if isinstance(value, getattr(datasets, kind))]
    if len(found) == 1 or wanted in found:
        return wanted if wanted in found else str(found[0])
    raise DpmixError(
        f"{where} has {len(found)} columns of kind datasets.{kind} in: {', '.join(kinds)}; "
        f"expected one, or one called '{wanted}': use cast_column or rename_column, {_COPY}"
    )


def _owners(where: str, side: Any, column: str) -> tuple[str, ...]:
    if column not in side.features:
        raise DpmixError(f"{where} has no column '{column}': {nearest(column, [*side.features])}")
    values = side[column][:]
    other = next((one for one in values if not isinstance(one, str | int | None)), None)
    if other is not None:
        raise DpmixError(
            f"{where}: column '{column}' holds {other!r}; expected names or whole numbers: use "
            f"cast_column, {_COPY}"
        )
    names = tuple("" if one is None else plain_name(str(one)).strip() for one in values)
    if empty := names.count(""):
        raise DpmixError(
            f"{where}: column '{column}' names no person in {empty} row(s), such as row "
            f"{names.index('')}; expected one in every row: use filter, {_COPY}"
        )
    return names


def _classes(where: str, name: str, side: Any, label: str, classes: int) -> Int64[Tensor, " N"]:
    labels = side[label][:]
    for row, value in enumerate(labels):
        if value is None or not 0 <= value < classes:
            raise DpmixError(
                f"{where}: split '{name}' has the label {value} in row {row}; expected a class, "
                f"0..{classes - 1}, in every row: use filter, {_COPY}"
            )
    return torch.tensor(labels, dtype=torch.int64)


def _images(name: str, side: Any, image: str, labels: Int64[Tensor, "N *L"]) -> EncodedImages:
    import datasets

    encoded = side.cast_column(image, datasets.Image(decode=False)).with_format("arrow")
    contents: list[Path | memoryview | UnreadableImageError] = []
    for chunk in encoded.data.column(image).chunks:
        # Flattened, so that what lies under a missing row is missing too.
        fields = dict(zip((field.name for field in chunk.type), chunk.flatten(), strict=True))
        for data, path in zip(fields["bytes"], fields["path"], strict=True):
            if data.is_valid:
                contents.append(memoryview(data.as_buffer()))
            elif not path.is_valid:
                contents.append(UnreadableImageError("the row has no image"))
            elif not Path(path.as_py()).exists():
                contents.append(UnreadableImageError(f"its file '{path.as_py()}' is not there"))
            else:
                contents.append(Path(path.as_py()))
    names = tuple(f"{name}[{i}]" for i in range(len(contents)))
    return EncodedImages(names, tuple(contents), labels)
