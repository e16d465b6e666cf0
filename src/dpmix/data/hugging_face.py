"""`hf:NAME` or `hf:NAME:CONFIGURATION`: data sets of the library `datasets`.

Guarantees: nothing is downloaded unless asked for, no code of a data set is run, and the encoded
images stay in the library's memory-mapped files: a set larger than memory can be read.
"""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dpmix.data.decode import EncodedPart, decode_sources
from dpmix.data.decode_pool import EncodedImages, Missing
from dpmix.data.folder_listing import local_path
from dpmix.data.image import ReadOptions
from dpmix.data.split_names import judged_side, named_sides, plain_name
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError, one_line, to_install

# The images, labels and class names of one split of a Hugging Face data set.
#
# Guarantees: encoded images are views into the library's memory-mapped files, nothing is copied;
# every row has a class; a row without an image is there as `Missing`, so that it counts as
# corrupt.


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


PREFIX = "hf:"


def hugging_face_splits(name: str, options: ReadOptions, download: bool) -> Splits:
    """Load the train and test (or validation) split of the data set `name`.

    Args:
        name: on the hub, as owner/name, or a folder that `datasets.load_dataset` reads, as a path
            that can't be taken for a name on the hub; with a colon and a configuration's name
            after it where there are several.
        options: how images are read.
        download: fetch what the local cache lacks.

    Raises:
        DpmixError: `datasets` is missing, the set is not there or can't be fetched, it has no train
            and test split, not one column of images and one of classes, a row without a class, the
            name is one of the hub and of a folder too, and as `decode_sources` raises.
    """
    if not is_hub_name(name):
        path = local_path(name)
        # Not in general: a path loses its ./, which tells it from a name on the hub.
        name = str(path) if name.startswith("~") else name
    place, configuration = named_parts(name)
    if not is_hub_name(name) and not Path(place).exists():
        raise DpmixError(f"no file or folder '{place}'; expected a data set there: check the path")
    if is_hub_name(name) and Path(place).exists():
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
            f"'validation': {copy_of('SPLIT', 'train_test_split(0.2)[SIDE]', 'SIDE')}"
        )
    image, label, classes = columns(where, loaded[sides["train"]])
    if "test" in sides and "val" in sides and has_no_class(loaded[sides["test"]], label):
        warnings.warn(f"{where}: '{sides['test']}' has no labels and is not used", stacklevel=2)
        del sides["test"]
    test = judged_side(sides, where)
    assert test is not None
    parts = [
        labelled_part(where, loaded[side], side, image, label, len(classes))
        for side in (sides["train"], test)
    ]
    (train_source, test_source), _ = decode_sources(parts, classes, options)
    title = Path(place).name + (f" {configuration}" if configuration else "")
    return Splits(title, train_source, test_source, flip=True)


def named_parts(name: str) -> tuple[str, str | None]:
    """`name` as the data set's own name, or its folder, and its configuration."""
    found = re.fullmatch(r"(.+):([\w.+-]+)", name, re.DOTALL)
    if found is None or Path(name).exists():
        return name, None
    return found[1], found[2]


def is_hub_name(name: str) -> bool:
    """Whether `name` is one on the hub, as owner/name or owner/name:configuration, and no path."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(:[\w.+-]+)?", name) is not None


def _loaded(where: str, place: str, configuration: str | None, download: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise DpmixError(f"{where} needs the package datasets: {to_install('hub')}") from None
    datasets.disable_progress_bars()
    with _offline(datasets, not download):
        try:
            sides = datasets.load_dataset(place, configuration)
        # A hub that is not reached and a set that is damaged raise errors of many kinds.
        except Exception as error:
            raise _refusal(where, place, configuration, download, error) from error
    return sides


def _refusal(
    where: str, place: str, configuration: str | None, download: bool, error: Exception
) -> DpmixError:
    known = _configurations(place)
    if len(known) > 1 and configuration not in known:
        return DpmixError(
            f"{where} has the configurations {', '.join(known)}; expected one of them: give "
            f"{PREFIX}{place}:{known[0]}"
        )
    reason: BaseException = error
    while reason.__cause__ is not None:  # the outermost says only that there was an error
        reason = reason.__cause__
    said = f"{where} can't be loaded ({one_line(reason)})"
    if not is_hub_name(place):
        return DpmixError(
            f"{said}; expected a folder that "
            "datasets.load_dataset reads, such as one of train.parquet and "
            "test.parquet"
        )
    remedy = "check the name and the network" if download else "give --download to fetch it"
    return DpmixError(f"{said}; {remedy}, or give the folder of a copy")


def _configurations(place: str) -> list[str]:
    import datasets

    try:
        return list(datasets.get_dataset_config_names(place))
    except Exception:  # of a set that can't be loaded, as many kinds as above
        return []


@contextmanager
def _offline(datasets: Any, wanted: bool) -> Iterator[None]:
    """Have the library look in its cache alone."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before
