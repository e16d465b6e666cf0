"""`hf:NAME` or `hf:NAME:CONFIGURATION`: data sets of the library `datasets`.

Guarantees: nothing is downloaded unless asked for, no code of a data set is run, and the encoded
images stay in the library's memory-mapped files: a set larger than memory can be read.
"""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dpmix.data.decode import decode_sources
from dpmix.data.hub_columns import columns, copy_of, has_no_class, labelled_part
from dpmix.data.local_path import local_path
from dpmix.data.options import ReadOptions
from dpmix.data.split_names import judged_side, named_sides
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError, one_line
from dpmix.extras import to_install

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
