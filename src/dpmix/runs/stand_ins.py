"""What takes the place of data, weights and a pool in a run that is only tried.

Guarantee: all of it is noise or published numbers. A dry run reads what is there, and trains
nothing; a smoke run trains, and reads no image at all.
"""

from pathlib import Path
from typing import Literal

import torch

from dpmix.data.source import TensorSource
from dpmix.data.splits import Splits, narrowed
from dpmix.data.torchvision_sets import KNOWN, described_splits, is_there
from dpmix.pool.load import LoadedPool, PoolFacts
from dpmix.pool.pool import PublicPool
from dpmix.runs.config import Config
from dpmix.runs.defaults import choose_model
from dpmix.runs.settings import CacheConfig, DataConfig, ViewConfig

Trial = Literal["dry-run", "smoke"]


SIZE, SCRATCH_SIZE, CLASSES = 32, 16, 2


TRAIN, TEST = 2, 2


STEPS, BATCH = 2, 1


def miniature(config: Config, folder: Path) -> Config:
    """The settings cut down to two steps on two images of noise, for `build_run(trial="smoke")`.

    The network, its trained part, the method, all K and the optimiser stay.

    Args:
        config: settings.
        folder: for the run and its feature cache.
    """
    config = choose_model(config)
    data, backbone = config.data, config.model.backbone
    sizes = {"backbone_weights": None, "backbone_size": None if backbone is None else SIZE}
    budget = {"steps": STEPS, "epochs": None, "expected_batch_size": float(BATCH)}
    cache = config.features.model_copy(update={"cache_dir": str(folder / "features")})
    return config.model_copy(
        update={
            "data": DataConfig(
                data=data.data, channels=data.channels, normalization=data.normalization,
                image_size=SCRATCH_SIZE if backbone is None else SIZE,
            ),
            "views": config.views.model_copy(update={"pretrain_epochs": 1}),
            "model": config.model.model_copy(update=sizes),
            "features": CacheConfig() if backbone is None else cache,
            "privacy": config.privacy.model_copy(
                update=budget | {"sampling_rate": None, "denominator": None, "spent": ()}
            ),
            "run": config.run.model_copy(
                update={"output": str(folder / "run"), "eval_every": None}
            ),
        }
    )  # fmt: skip


def splits_without_data(config: DataConfig, trial: Trial) -> Splits | None:
    """Noise for a smoke run; for a dry run the published numbers of a set that is not there."""
    if trial == "smoke":
        assert config.image_size is not None
        return _noise_splits(config.image_size, config.channels or 3)
    if config.data in KNOWN and not is_there(config.data, Path(config.data_root).expanduser()):
        described = described_splits(config.data, config.image_size, config.channels)
        fewer = (config.classes, config.validation_fraction, config.train_images)
        return narrowed(described, *fewer)
    return None


def pool_without_files(views: ViewConfig, splits: Splits, trial: Trial) -> LoadedPool | None:
    """Noise for the pool that mix-diff lacks, and for any in a smoke run."""
    lacking = views.method == "mix-diff" and views.pool is None
    unread = trial == "smoke" and views.pool is not None
    return _noise_pool(splits) if lacking or unread else None


def _noise_splits(size: int, channels: int) -> Splits:
    names = tuple(f"class {i}" for i in range(CLASSES))
    train, test = (
        TensorSource(
            torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8),
            torch.arange(count) % CLASSES,
            names,
        )
        for count in (TRAIN, TEST)
    )
    return Splits("a miniature of noise", train, test, flip=True)


def _noise_pool(splits: Splits) -> LoadedPool:
    """One image of noise a class."""
    shape, classes = splits.train.image_shape, len(splits.train.class_names)
    noise = torch.randint(0, 256, (classes, *shape), dtype=torch.uint8)
    facts = PoolFacts("noise (to train, give --pool)", classes, "0" * 64, None, None, None)
    return LoadedPool(PublicPool(noise, torch.arange(classes)), facts)
