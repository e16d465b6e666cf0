"""The public pool of a run."""

import warnings
from pathlib import Path

from dpmix.data.image import Progress, ReadOptions
from dpmix.data.splits import Splits
from dpmix.data.window import parse_window
from dpmix.errors import DpmixError
from dpmix.pool.load import LoadedPool, load_pool_for
from dpmix.runs.config import Config


def read_pool(config: Config, splits: Splits, progress: Progress | None) -> LoadedPool | None:
    """Read the public pool that the settings name, checked against the private images.

    Raises:
        DpmixError: `same-class` draws from a pool without a class, and as of `load_pool_for`.
    """
    views, data = config.views, config.data
    if views.pool is None:
        return None
    path = Path(views.pool).expanduser()
    loaded = load_pool_for(
        data.data,
        splits,
        path,
        labels_csv=Path(views.pool_labels).expanduser() if views.pool_labels else None,
        unmapped=views.pool_unmapped,
        options=ReadOptions(
            skip_corrupt=data.skip_corrupt,
            workers=data.workers,
            progress=progress,
            window=parse_window(data.window),
        ),
    )
    without = loaded.facts.classes_without
    if views.method != "mix-diff" or not without:
        return loaded
    names = ", ".join(without)
    if views.pool_draw == "same-class":
        raise DpmixError(
            f"pool_draw same-class: the public pool '{path}' has no image of class {names}; "
            "expected one or more of each: add some, or use --pool-draw uniform"
        )
    if len(without) < len(splits.train.class_names):  # one without any label favours no class
        warnings.warn(
            f"the public pool '{path}' has images of some classes and none of class {names}, which "
            "will be recognised less often for that (docs/public-pool.md); add some, or use "
            "another --method",
            stacklevel=1,
        )
    return loaded
