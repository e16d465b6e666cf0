"""Settings to the parts of a run: data, plan, views, model and optimiser, checked together."""

import warnings
from datetime import datetime
from pathlib import Path

import torch

from dpmix.data.fingerprint import find_repeats
from dpmix.data.image import READING, Progress, Reading, ReadOptions
from dpmix.data.named import load_splits, public_name
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.models.backbones.load import other_backbones
from dpmix.pool.load import LoadedPool, load_pool_for
from dpmix.pool.pool import PublicPool
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.prior_releases import read_prior_releases
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.repeats import epsilon_of_copies, refuse_repeats
from dpmix.runs.config import Config
from dpmix.runs.defaults import (
    choose_few_views,
    choose_image_size,
    choose_model,
    choose_rate,
    choose_recipe,
)
from dpmix.runs.folder import RunFolder
from dpmix.runs.parts import Run, build, constants_of, load, set_statistics, whitens
from dpmix.runs.settings import InputConfig, PrivacyConfig, ViewConfig
from dpmix.runs.stand_ins import Trial, pool_without_files, splits_without_data
from dpmix.training.distributed import ALONE, Ranks
from dpmix.training.feature_cache import FeatureCache
from dpmix.training.optimizer import build_optimizer, build_schedule
from dpmix.training.pretrain import Pretraining
from dpmix.views.builder import ViewBuilder
from dpmix.views.spec import ViewSpec

# The device that a run computes on.


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


# The public pool that the settings name.


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


def build_run(
    config: Config,
    progress: Progress | None = None,
    *,
    trial: Trial | None = None,
    plan: PrivacyPlan | None = None,
    ranks: Ranks = ALONE,
    recorded: bool = False,
) -> Run:
    """Read the data, calibrate the plan, build the rest.

    Args:
        config: settings.
        progress: told how far the decoding of images is, private ones and the pool's.
        trial: for a run that is only tried: a backbone's weights are random but where a file of
            them is given, and `stand_ins` take the place of what is not there. For `smoke`,
            `config` is a `miniature`.
        plan: of the run that these parts go on with; None calibrates one.
        ranks: the processes that train together.
        recorded: read pictures by the rule that `config` records, where it is that of a run; a new
            run reads them by the newest.

    Raises:
        DpmixError: any setting or data that can't be meant.
    """
    if config.run.output and trial is None and plan is None and ranks.is_main:
        # Before the data are read, which can take minutes.
        RunFolder(Path(config.run.output)).refuse_if_taken(config.run.overwrite)
    device = choose_device(config.run.device)
    check_pool_settings(config.views)
    named = config.model.backbone is not None
    asked, config = config.views, choose_model(config)
    backbone = load(
        config, device, pretrained=trial is None or config.model.backbone_weights is not None
    )
    if backbone is not None:
        config = choose_image_size(config, backbone.module.input_size)
    reading = config.input.reading if recorded and config.input is not None else READING
    noise = splits_without_data(config.data, trial) if trial else None
    splits = noise or _splits(config, progress, reading)
    config = choose_few_views(config, asked, len(splits.train))
    spec = config.view_spec(splits.flip)
    config = choose_recipe(config, len(splits.train), spec.views)
    # A resumed run has the images that it began with, which `resume` compares.
    allowed = config.privacy.allow_repeats or plan is not None
    plan = plan or calibrate(config.privacy, len(splits.train), spec)
    copies = 1 if noise else _copies(splits, plan, allowed)
    config = choose_rate(config, plan)
    pretrains = config.views.pool_role == "pretrain"
    stand_in = pool_without_files(config.views, splits, trial) if trial else None
    loaded = stand_in or read_pool(config, splits, progress, reading)
    pool = loaded.pool if loaded else None
    mixes_pool = config.views.method == "mix-diff" or not (pretrains or whitens(config))
    views = _views(config, splits, spec, pool if mixes_pool else None, backbone)
    randomness = Randomness(config.run.seed)
    # Initial weights are public; their stream is the run's, so that a seed repeats them.
    torch.manual_seed(randomness.model)
    shape, class_names = splits.train.image_shape, splits.train.class_names
    identity = backbone.weights_sha256 if backbone is not None else None
    model = build(config, shape, len(class_names), backbone).to(device)
    if whitens(config):
        set_statistics(model, backbone, pool)
    chosen = config.optimizer
    optimizer = build_optimizer(
        chosen.optimizer,
        model,
        plan.noise_std / plan.denominator,
        {
            "lr": chosen.learning_rate,
            "momentum": chosen.momentum,
            "weight_decay": chosen.weight_decay,
            **chosen.optimizer_options,
        },
    )
    resolved = config.model_copy(
        update={
            "views": config.views.model_copy(update={"flip": spec.flip}),
            "run": config.run.model_copy(update={"output": str(_output(config))}),
            "input": InputConfig(
                image_shape=shape,
                class_names=class_names,
                backbone_sha256=identity,
                reading=reading,
            ),
        }
    )
    return Run(
        config=resolved,
        splits=splits,
        plan=plan,
        views=views,
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(chosen.schedule, optimizer, plan.steps),
        device=device,
        pool_facts=loaded.facts if loaded else None,
        pretraining=_pretraining(config, views, pool, randomness) if pool and pretrains else None,
        backbone=backbone,
        cache=_cache(config, backbone, device),
        ranks=ranks,
        hint=other_backbones(backbone.name) if backbone and not named else None,
        copies=copies,
    )


def calibrate(privacy: PrivacyConfig, n: int, spec: ViewSpec) -> PrivacyPlan:
    """The plan that the settings ask for on `n` training examples."""
    return PrivacyPlan.calibrate(
        n=n if privacy.n_is_public else None,
        sensitivity_multiplier=spec.sensitivity_multiplier,
        prior_releases=read_prior_releases(privacy.spent),
        **privacy.model_dump(exclude={"spent", "allow_repeats"}),
    )


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


def _copies(splits: Splits, plan: PrivacyPlan, allowed: bool) -> int:
    """How often the most frequent training image occurs; 1 where nothing is claimed."""
    if not plan.private:
        return 1
    found = find_repeats(splits.train_digests)
    if not allowed:
        refuse_repeats(found, splits.train, lambda m: epsilon_of_copies(plan, m, plan.steps))
    return found.most


def _splits(config: Config, progress: Progress | None, reading: Reading) -> Splits:
    settings = config.data.model_dump(exclude={"normalization"})
    return load_splits(progress=progress, reading=reading, **settings)


def _output(config: Config) -> Path:
    if config.run.output is not None:
        return Path(config.run.output)
    started = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    data = config.data.data
    # Pages name runs by their folders.
    name = Path(data).name.removeprefix("hf:") if public_name(data) == data else "images"
    name = name.replace(":", "-")  # before a configuration; not every system has it in names
    return Path("runs") / f"{name}-{config.views.method}-{started}"
