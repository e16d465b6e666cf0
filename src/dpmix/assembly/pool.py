"""The public pool that the settings name."""

import warnings
from pathlib import Path

from dpmix.config import Config
from dpmix.data import Splits
from dpmix.data.options import Progress, ReadOptions
from dpmix.data.pixels import Reading
from dpmix.errors import DpmixError
from dpmix.public.load import LoadedPool, load_pool_for
from dpmix.settings import ViewConfig


def check_pool_settings(views: ViewConfig) -> None:
    """Refuse settings of the pool that would do nothing, before anything is read.

    Raises:
        DpmixError: a pool's setting without a pool, or roles that the method does not have.
    """
    if views.pool is None:
        for name in ("pool_labels", "pool_unmapped", "pool_role"):
            value = getattr(views, name)
            # `mix-diff` without a pool has an error of its own, in `ViewBuilder`.
            if value != ViewConfig.model_fields[name].default and views.method != "mix-diff":
                raise DpmixError(f"{name} is '{value}' but there is no pool; give --pool FOLDER")
    if views.pool_role == "pretrain" and views.method == "mix-diff":
        raise DpmixError(
            "pool_role pretrain trains on the pool first and then without it, so method mix-diff "
            "would have nothing to mix in; use --method mix-self"
        )


def reads_pool(config: Config) -> bool:
    """Whether anything in a run with these settings, its model chosen, reads a public pool."""
    views = config.views
    return (
        views.method == "mix-diff"
        or views.pool_role == "pretrain"
        or config.model.feature_norm == "whiten"
    )


def read_pool(
    config: Config, splits: Splits, progress: Progress | None, reading: Reading
) -> LoadedPool | None:
    """The pool, if there is one, its images read by the rule `reading`.

    Raises:
        DpmixError: a class without images that `same-class` draws need, and as `load_pool_for`
            raises.
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
            reading=reading,
        ),
    )
    if views.method == "mix-diff":
        _check_classes(path, loaded.facts.classes_without, views, len(splits.train.class_names))
    return loaded


def _check_classes(path: Path, without: tuple[str, ...], views: ViewConfig, classes: int) -> None:
    """Say which classes the pool has no image of, or refuse where each must have one."""
    names = ", ".join(without)
    if views.pool_draw == "same-class" and without:
        raise DpmixError(
            f"pool_draw same-class: the public pool '{path}' has no image of class {names}; "
            "expected one or more of each: add some, or use --pool-draw uniform"
        )
    # A pool without any label says nothing for one class and against another.
    if 0 < len(without) < classes:
        warnings.warn(
            f"the public pool '{path}' has images of some classes and none of class {names}, which "
            "will be recognised less often for that (docs/public-pool.md); add some, or use "
            "another --method",
            stacklevel=1,
        )
