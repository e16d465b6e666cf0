"""Settings to the parts of a run: data, plan, views, model and optimiser, checked together."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpmix.config import Config, InputConfig, PrivacyConfig, ViewConfig
from dpmix.data import Splits, load_splits, normalization
from dpmix.data.options import Progress, ReadOptions
from dpmix.errors import DpmixError
from dpmix.models import build_model
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.release_record import read_spent
from dpmix.public.load import LoadedPool, PoolFacts, load_pool_for
from dpmix.public.pool import PublicPool
from dpmix.training.optimizer import build_optimizer, build_schedule
from dpmix.training.pretrain import Pretraining
from dpmix.training.step import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec


@dataclass(frozen=True)
class Assembly:
    """Everything a run needs, nothing trained or written yet.

    Attributes:
        config: the settings with every default made explicit, enough to rebuild the model.
        splits: private training images and test images.
        plan: the calibrated guarantee.
        views: the method.
        model: freshly initialised, on `device`.
        optimizer: over the model's parameters.
        schedule: of its learning rate.
        device: where the model is.
        pool_facts: what the run says of the public pool it reads.
        pretraining: on that pool, before the private steps.
    """

    config: Config
    splits: Splits
    plan: PrivacyPlan
    views: ViewBuilder
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device
    pool_facts: PoolFacts | None
    pretraining: Pretraining | None

    @property
    def folder(self) -> Path:
        """Where the run is to be written."""
        assert self.config.run.output is not None
        return Path(self.config.run.output)

    def trainer(self) -> PrivateTrainer:
        """A trainer wired from these parts; it checks the model and that all of them agree."""
        run = self.config.run
        return PrivateTrainer(
            self.model,
            self.splits.train,
            plan=self.plan,
            views=self.views,
            optimizer=self.optimizer,
            seed=run.seed,
            engine=run.engine,
            view_chunk=run.view_chunk,
        )


def assemble(config: Config, progress: Progress | None = None) -> Assembly:
    """Read the data, calibrate the plan, build the rest.

    Args:
        config: settings.
        progress: told how far the decoding of images is, private ones and the pool's.

    Raises:
        DpmixError: any setting or data that can't be meant.
    """
    device = choose_device(config.run.device)
    check_pool_settings(config.views)
    splits = load_splits(progress=progress, **config.data.model_dump(exclude={"normalization"}))
    spec = config.view_spec(splits.flip)
    privacy = config.privacy.with_batch(len(splits.train))
    plan = calibrate(privacy, len(splits.train), spec)
    loaded = _pool(config, splits, progress)
    pool = loaded.pool if loaded else None
    pretrains = config.views.pool_role == "pretrain"
    views = _views(config, splits, spec, None if pretrains else pool)
    randomness = Randomness.create(config.run.seed)
    # Initial weights are public; their stream is the run's, so that a seed repeats them.
    torch.manual_seed(randomness.model)
    model = build(config, splits.train.image_shape, len(splits.train.class_names)).to(device)
    optimizer = build_optimizer(config.optimizer, model)
    resolved = config.model_copy(
        update={
            "views": config.views.model_copy(update={"flip": spec.flip}),
            "privacy": privacy,
            "run": config.run.model_copy(update={"output": str(_output(config))}),
            "input": InputConfig(
                image_shape=splits.train.image_shape, class_names=splits.train.class_names
            ),
        }
    )
    return Assembly(
        config=resolved,
        splits=splits,
        plan=plan,
        views=views,
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(config.optimizer, optimizer, plan.steps),
        device=device,
        pool_facts=loaded.facts if loaded else None,
        pretraining=_pretraining(config, views, pool, randomness) if pool and pretrains else None,
    )


def calibrate(privacy: PrivacyConfig, n: int, spec: ViewSpec) -> PrivacyPlan:
    """The plan that the settings ask for on `n` training examples."""
    n_is_public = privacy.sampling_rate is None and privacy.denominator is None
    return PrivacyPlan.calibrate(
        n=n if n_is_public else None,
        sensitivity_multiplier=spec.sensitivity_multiplier,
        spent=read_spent(privacy.spent),
        **privacy.model_dump(exclude={"spent"}),
    )


def build(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """The model that the settings name, for images [C, H, W] and L classes."""
    return build_model(
        config.model.model,
        in_channels=image_shape[0],
        num_classes=num_classes,
        shortcut=config.model.shortcut,
    )


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA, else Apple's mps, else the CPU.

    Raises:
        DpmixError: a device that torch does not know or this machine does not have.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DpmixError(
            f"device '{name}' cannot be used: {str(error).splitlines()[0]}; use --device cpu"
        ) from None
    return device


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


def _views(config: Config, splits: Splits, spec: ViewSpec, pool: PublicPool | None) -> ViewBuilder:
    train = splits.train
    constants = normalization(config.data.normalization, train.image_shape[0])
    return ViewBuilder(spec, len(train.class_names), constants, pool)


def _pretraining(
    config: Config, views: ViewBuilder, pool: PublicPool, randomness: Randomness
) -> Pretraining:
    spec = ViewSpec(
        "self-aug", k_base=1, crop_padding=views.spec.crop_padding, flip=views.spec.flip
    )
    return Pretraining(
        pool,
        ViewBuilder(spec, views.num_classes, views.normalization),
        config.views.pretrain_epochs,
        randomness.public,
    )


def _pool(config: Config, splits: Splits, progress: Progress | None) -> LoadedPool | None:
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
            skip_corrupt=data.skip_corrupt, workers=data.workers, progress=progress
        ),
    )
    without = loaded.facts.classes_without
    if views.pool_draw == "same-class" and views.method == "mix-diff" and without:
        raise DpmixError(
            f"pool_draw same-class: the public pool '{path}' has no image of class "
            f"{', '.join(without)}; expected one or more of each: add some, or use --pool-draw "
            "uniform"
        )
    return loaded


def _output(config: Config) -> Path:
    if config.run.output is not None:
        return Path(config.run.output)
    started = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / f"{Path(config.data.data).stem}-{config.views.method}-{started}"
