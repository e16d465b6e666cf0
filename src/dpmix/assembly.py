"""Settings to the parts of a run: data, plan, views, model and optimiser, checked together."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpmix.config import Config, InputConfig, PrivacyConfig, ViewConfig
from dpmix.data import Normalization, Splits, load_splits, normalization
from dpmix.data.described import KNOWN, described_splits
from dpmix.data.options import Progress, ReadOptions
from dpmix.data.torchvision_sets import is_there
from dpmix.defaults import choose_image_size, choose_model, choose_rate, choose_recipe
from dpmix.errors import DpmixError
from dpmix.models import build_model, check_private
from dpmix.models.backbone import Backbone
from dpmix.models.backbones import load_backbone
from dpmix.models.backbones.best_reachable import how_to_do_better
from dpmix.models.classifier import BackboneClassifier
from dpmix.models.head import LinearHead
from dpmix.models.trainable import choose_trainable
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.release_record import read_spent
from dpmix.public.load import LoadedPool, PoolFacts, load_pool_for
from dpmix.public.pool import PublicPool
from dpmix.training.features import FeatureCache
from dpmix.training.optimizer import build_optimizer, build_schedule
from dpmix.training.pretrain import Pretraining
from dpmix.training.step import PrivateTrainer
from dpmix.views import ViewBuilder, ViewSpec
from dpmix.views.view_source import ViewSource

WHITENING_IMAGES = 5000


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
        backbone: whose features the model trains on, if any.
        cache: of those features; None trains on fresh views.
        better: one line on a better backbone, where the user named none and this machine lacks it.
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
    backbone: Backbone | None
    cache: FeatureCache | None
    better: str | None

    @property
    def folder(self) -> Path:
        """Where the run is to be written."""
        assert self.config.run.output is not None
        return Path(self.config.run.output)

    @property
    def trained(self) -> nn.Module:
        """What a step trains: the head alone, where views are cached."""
        if self.cache is None:
            return self.model
        assert isinstance(self.model, BackboneClassifier)
        return self.model.head

    def check(self) -> None:
        """Refuse what a trainer would refuse, without embedding a view first.

        Raises:
            DpmixError: as `PrivateTrainer` raises.
        """
        self.views.check_data(self.splits.train)
        shape: tuple[int, ...] = self.splits.train.image_shape
        if self.cache is not None and self.backbone is not None:
            self.cache.check(self.views)
            shape = (self.backbone.embedding_size,)
        check_private(self.trained, shape)

    def trainer(self, views: ViewSource) -> PrivateTrainer:
        """A trainer wired from these parts; it checks the model and that all of them agree.

        Args:
            views: `self.views`, or what `self.cache` has embedded of them.
        """
        run = self.config.run
        return PrivateTrainer(
            self.trained,
            self.splits.train,
            plan=self.plan,
            views=views,
            optimizer=self.optimizer,
            seed=run.seed,
            engine=run.engine,
            view_chunk=run.view_chunk,
        )


def assemble(config: Config, progress: Progress | None = None, *, dry: bool = False) -> Assembly:
    """Read the data, calibrate the plan, build the rest.

    Args:
        config: settings.
        progress: told how far the decoding of images is, private ones and the pool's.
        dry: for sizes and costs alone: a backbone's weights are random, and noise stands in for a
            public set or a public pool that is not there.

    Raises:
        DpmixError: any setting or data that can't be meant.
    """
    device = choose_device(config.run.device)
    check_pool_settings(config.views)
    named = config.model.backbone is not None
    config = choose_model(config)
    backbone = load(config, device, pretrained=not dry)
    if backbone is not None:
        config = choose_image_size(config, backbone.module.input_size)
    splits = _splits(config, progress, dry)
    spec = config.view_spec(splits.flip)
    config = choose_recipe(config, len(splits.train), spec.views)
    plan = calibrate(config.privacy, len(splits.train), spec)
    config = choose_rate(config, plan)
    loaded = _pool(config, splits, progress)
    pool = loaded.pool if loaded else None
    if dry and pool is None and config.views.method == "mix-diff":
        pool = _noise_pool(splits)
    pretrains = config.views.pool_role == "pretrain"
    mixes_pool = config.views.method == "mix-diff" or not (pretrains or _whitens(config))
    views = _views(config, splits, spec, pool if mixes_pool else None, backbone)
    randomness = Randomness.create(config.run.seed)
    # Initial weights are public; their stream is the run's, so that a seed repeats them.
    torch.manual_seed(randomness.model)
    shape, class_names = splits.train.image_shape, splits.train.class_names
    identity = backbone.weights_sha256 if backbone is not None else None
    model = build(config, shape, len(class_names), backbone).to(device)
    if _whitens(config):
        _set_statistics(model, backbone, pool)
    optimizer = build_optimizer(config.optimizer, model, plan)
    resolved = config.model_copy(
        update={
            "views": config.views.model_copy(update={"flip": spec.flip}),
            "run": config.run.model_copy(update={"output": str(_output(config))}),
            "input": InputConfig(
                image_shape=shape, class_names=class_names, backbone_sha256=identity
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
        backbone=backbone,
        cache=_cache(config, backbone, device),
        better=how_to_do_better(backbone.name) if backbone and not named else None,
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


def load(config: Config, device: torch.device, *, pretrained: bool = True) -> Backbone | None:
    """The backbone that the settings name, if any; arguments as in `assemble`.

    Raises:
        DpmixError: as `load_backbone` raises.
    """
    chosen = config.model
    if chosen.backbone is None:
        return None
    return load_backbone(
        chosen.backbone,
        device,
        weights=Path(chosen.backbone_weights).expanduser() if chosen.backbone_weights else None,
        pretrained=pretrained,
        download=config.data.download,
        input_size=chosen.backbone_size,
    )


def build(
    config: Config,
    image_shape: tuple[int, int, int],
    num_classes: int,
    backbone: Backbone | None,
) -> nn.Module:
    """The model that the settings name, for images [C, H, W] and L classes."""
    chosen = config.model
    if backbone is None:
        assert chosen.model is not None
        return build_model(
            chosen.model,
            in_channels=image_shape[0],
            num_classes=num_classes,
            shortcut=chosen.shortcut,
        )
    head = LinearHead(backbone.embedding_size, num_classes, chosen.feature_norm)
    model = BackboneClassifier(backbone.module, head)
    choose_trainable(
        model, chosen.trainable, last_blocks=chosen.last_blocks, lora_rank=chosen.lora_rank
    )
    return model


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


def constants_of(
    config: Config, image_shape: tuple[int, int, int], backbone: Backbone | None
) -> Normalization:
    """The public constants that images [C, H, W] are normalised by: the backbone's own, if any."""
    if backbone is not None:
        return backbone.normalization
    assert config.data.normalization is not None
    return normalization(config.data.normalization, image_shape[0])


def _views(
    config: Config,
    splits: Splits,
    spec: ViewSpec,
    pool: PublicPool | None,
    backbone: Backbone | None,
) -> ViewBuilder:
    train = splits.train
    constants = constants_of(config, train.image_shape, backbone)
    return ViewBuilder(spec, len(train.class_names), constants, pool)


def _whitens(config: Config) -> bool:
    return config.model.backbone is not None and config.model.feature_norm == "whiten"


def _set_statistics(model: nn.Module, backbone: Backbone | None, pool: PublicPool | None) -> None:
    """Whiten by the pool's features: by public images, never by private ones."""
    if pool is None:
        raise DpmixError(
            "feature_norm whiten needs public images to take means from; give --pool FOLDER, or "
            "use --feature-norm unit"
        )
    assert isinstance(model, BackboneClassifier) and backbone is not None
    device = next(model.parameters()).device
    chosen = torch.linspace(0, len(pool) - 1, min(len(pool), WHITENING_IMAGES)).long()
    parts = [backbone.features(pool.take(part.to(device))[0]) for part in chosen.split(64)]
    model.head.set_statistics(torch.cat(parts))


def _cache(config: Config, backbone: Backbone | None, device: torch.device) -> FeatureCache | None:
    chosen = config.features
    if backbone is None or config.model.trainable != "head" or chosen.fresh_views:
        return None
    assert chosen.cache_views is not None
    return FeatureCache(
        Path(chosen.cache_dir).expanduser(),
        backbone,
        chosen.cache_views,
        chosen.view_seed,
        chosen.cache_dtype,
        config.run.view_chunk,
        device,
    )


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


def _splits(config: Config, progress: Progress | None, dry: bool) -> Splits:
    data = config.data
    root = Path(data.data_root).expanduser()
    if dry and data.data in KNOWN and not is_there(data.data, root):
        return described_splits(data.data, data.image_size, data.channels)
    return load_splits(progress=progress, **data.model_dump(exclude={"normalization"}))


def _noise_pool(splits: Splits) -> PublicPool:
    """One image of noise a class, in place of a pool that a dry run was not given."""
    shape, classes = splits.train.image_shape, len(splits.train.class_names)
    noise = torch.randint(0, 256, (classes, *shape), dtype=torch.uint8)
    return PublicPool(noise, torch.arange(classes))


def _output(config: Config) -> Path:
    if config.run.output is not None:
        return Path(config.run.output)
    started = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs") / f"{Path(config.data.data).stem}-{config.views.method}-{started}"
