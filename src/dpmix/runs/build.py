"""`build_run`: from settings to a `Run`, whose data, plan, views, model and optimiser fit."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpmix.clipping.types import LOSSES, Loss
from dpmix.data.fingerprint import find_repeats, fingerprint, refuse_repeats, refuse_shared_images
from dpmix.data.image import Progress
from dpmix.data.named import load_splits, public_name
from dpmix.data.source import ImageSource, Subset, class_shares, persons_of, unit_count
from dpmix.data.splits import Splits
from dpmix.data.subgroups import load_subgroups
from dpmix.models.backbones.backbone import Backbone
from dpmix.models.backbones.load import other_backbones
from dpmix.models.head import BackboneClassifier
from dpmix.pool.load import PoolFacts
from dpmix.pool.pool import PublicPool
from dpmix.privacy.balance import unit_weights
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.prior_releases import read_prior_releases
from dpmix.privacy.randomness import Randomness
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.privacy.sampling import PoissonSampler
from dpmix.runs.balance import choose_balance, count_sigma, find_prevalences, with_balance
from dpmix.runs.config import Config
from dpmix.runs.defaults import (
    check_settings,
    choose_head_steps,
    choose_image_size,
    choose_model,
    choose_recipe,
    whitens,
)
from dpmix.runs.folder import RunFolder
from dpmix.runs.from_scratch import choose_few_views
from dpmix.runs.inputs import CachedFeatures, FreshViews
from dpmix.runs.network import (
    build_network,
    choose_device,
    constants_of,
    load_backbone_of,
    whiten,
)
from dpmix.runs.pool import read_pool
from dpmix.runs.rates import choose_rate
from dpmix.runs.settings import InputConfig, PrivacyConfig, places
from dpmix.runs.start import require_start, start_head
from dpmix.runs.unit import choose_unit, warn_of_persons
from dpmix.training.distributed import ALONE, Ranks
from dpmix.training.evaluate import InFull
from dpmix.training.feature_cache import FeatureCache
from dpmix.training.optimizer import build_optimizer, build_schedule
from dpmix.training.phases import HeadFirst
from dpmix.training.pretrain import Pretraining
from dpmix.training.trainer import PrivateTrainer
from dpmix.views.builder import ViewBuilder
from dpmix.views.spec import ViewSpec


@dataclass(frozen=True)
class Run:
    """Everything that a run needs, before anything is trained or written."""

    config: Config
    splits: Splits
    plan: PrivacyPlan
    views: ViewBuilder
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device
    pool: PublicPool | None
    pool_facts: PoolFacts | None
    pretraining: Pretraining | None
    backbone: Backbone | None
    inputs: FreshViews
    ranks: Ranks
    backbone_hint: str | None
    copies: int
    in_full: InFull

    @property
    def folder(self) -> Path:
        """Where the run is to be written."""
        assert self.config.run.output is not None
        return Path(self.config.run.output)

    @property
    def pool_sha256(self) -> str | None:
        """Identifies the images and labels of the public pool, if one is read."""
        return self.pool_facts.contents_sha256 if self.pool_facts else None

    @property
    def loss(self) -> Loss:
        """The loss of a view."""
        return LOSSES[self.config.data.task]

    @cached_property
    def examples(self) -> ImageSource:
        """The training examples of this process."""
        train = self.splits.train
        if self.ranks.size == 1:
            return train
        if self.plan.unit == "image":
            return Subset.of(train, torch.arange(*self.ranks.bounds(len(train))))
        # Whole persons: one whose images lie in two parts would be clipped twice.
        persons = persons_of(train)
        first, stop = self.ranks.bounds(len(persons))
        own = (persons.owner >= first) & (persons.owner < stop)
        return Subset.of(train, own.nonzero().flatten())

    def fixed(self) -> str:
        """What every process must have in common: the training data, and settings but for places.

        A process trains on its part of the images that it read itself, and one image in two parts
        would be a repeat that none of them sees.
        """
        run, free = self.config.run, places("path") | places("resume")
        settings = self.config.model_dump(
            exclude={"data": True, "features": True, "run": True, "views": free, "model": free}
        )
        data = (fingerprint(self.splits.train, self.splits.train_digests), self.pool_sha256)
        return f"{settings} {run.seed} {run.eval_every} {data}"

    def start(self, report: Progress) -> None:
        """Start the head where the settings say, from public inputs alone."""
        start_head(self.config, self.model, self.backbone, self.pool, report)

    def trainer(self, **recorded: Any) -> PrivateTrainer:
        """A trainer of this run, which checks it; `recorded` are further arguments, for audits."""
        recorded = self._balance() | recorded
        run, early, head_first = self.config.run, self.config.model.head_steps, None
        if early is not None and isinstance(self.model, BackboneClassifier):
            head_first = HeadFirst(self.model.head, early)
        return PrivateTrainer(
            self.inputs.trained,
            self.examples,
            plan=self.plan,
            views=self.inputs.views,
            optimizer=self.optimizer,
            loss=self.loss,
            seed=run.seed,
            engine=run.engine,
            view_chunk=run.view_chunk,
            ranks=self.ranks,
            head_first=head_first,
            **recorded,
        )

    def _balance(self) -> dict[str, Any]:
        """What makes the units of this process count by their classes."""
        assert self.config.input is not None
        prevalences, unit = self.config.input.prevalences, self.plan.unit
        if prevalences is None:
            return {}
        weights = unit_weights(class_shares(self.examples, unit), prevalences)
        if self.config.privacy.balance == "weights":
            return {"weights": weights}
        return {"sampler": PoissonSampler(self.plan, unit_count(self.examples, unit), weights)}


def build_run(
    config: Config,
    progress: Progress | None = None,
    *,
    trial: bool = False,
    resumed: PrivacyPlan | None = None,
    ranks: Ranks = ALONE,
) -> Run:
    """Read the data, calibrate the plan, build the rest.

    A `trial` only shows sizes and costs: a backbone has random weights, unless a file of them is
    given, and the run folder is not looked at. A `resumed` run has the plan that it began with.
    """
    if config.run.output and not trial and resumed is None and ranks.is_main:
        # Before the data are read, which can take minutes.
        RunFolder(Path(config.run.output)).refuse_if_taken(config.run.overwrite)
    device = choose_device(config.run.device)
    asked, config = config, choose_model(config)
    check_settings(config)
    config = choose_balance(config)
    pretrained = not trial or config.model.backbone_weights is not None
    backbone = load_backbone_of(config, device, pretrained=pretrained)
    if backbone is not None:
        config = choose_image_size(config, backbone.module.input_size)
    splits = load_splits(progress=progress, **config.data.reading())
    config = choose_unit(config, asked.views, splits)
    by_person = config.privacy.unit == "person"
    persons = persons_of(splits.train) if by_person else None
    n = len(splits.train) if persons is None else len(persons)
    shape, class_names = splits.train.image_shape, splits.train.class_names
    config = choose_few_views(config, asked.views, n)
    spec = config.view_spec(splits.flip)
    config = choose_recipe(config, n, spec.views)
    prevalences = find_prevalences(
        config, splits, n, ranks, trial=trial, resumed=resumed is not None
    )
    plan = resumed or with_balance(calibrate(config.privacy, n, spec), prevalences)
    copies = 1  # where nothing is claimed
    if plan.private:
        owners = None if persons is None else persons.owner.numpy()
        repeats = find_repeats(splits.train_digests, owners=owners)
        copies = repeats.most
        # A resumed run has the images that it began with, which `resume` compares.
        if persons is not None:
            refuse_shared_images(repeats, splits.train)
        elif not config.privacy.allow_repeats and resumed is None:
            refuse_repeats(repeats, splits.train, lambda m: epsilon_of_copies(plan, m, plan.steps))
    if ranks.is_main:
        warn_of_persons(plan, splits)
    loaded = read_pool(config, splits, progress)
    pool = loaded.pool if loaded else None
    labelled = len(pool.labels[pool.labels >= 0].unique()) if pool else 0
    config = require_start(config, asked.model, class_names, labelled)
    config = choose_head_steps(config, plan)
    config = choose_rate(config, plan, len(class_names))
    views = ViewBuilder(
        spec,
        len(class_names),
        constants_of(config, shape, backbone),
        pool if spec.method == "mix-diff" else None,
    )
    randomness = Randomness(config.run.seed)
    # Initial weights are public; their stream is the run's, so that a seed repeats them.
    torch.manual_seed(randomness.model)
    model = build_network(config, shape, len(class_names), backbone).to(device)
    if whitens(config):
        whiten(model, backbone, pool)
    chosen = config.optimizer
    options = {
        "lr": chosen.learning_rate, "momentum": chosen.momentum,
        "weight_decay": chosen.weight_decay, **chosen.optimizer_options,
    }  # fmt: skip
    optimizer = build_optimizer(chosen.optimizer, model, plan.noise_std / plan.denominator, options)
    config = config.model_copy(
        update={
            "views": config.views.model_copy(update={"flip": spec.flip}),
            "run": config.run.model_copy(update={"output": str(_output(config))}),
            "input": InputConfig(
                image_shape=shape,
                class_names=class_names,
                backbone_sha256=backbone.weights_sha256 if backbone is not None else None,
                prevalences=prevalences,
            ),
        }
    )
    return Run(
        config=config,
        splits=splits,
        plan=plan,
        views=views,
        model=model,
        optimizer=optimizer,
        schedule=build_schedule(chosen.schedule, optimizer, plan.steps),
        device=device,
        pool=pool,
        pool_facts=loaded.facts if loaded else None,
        pretraining=_pretraining(config, views, pool, randomness),
        backbone=backbone,
        inputs=_inputs(config, views, splits, model, backbone, device),
        ranks=ranks,
        backbone_hint=other_backbones(backbone.name)
        if backbone and config.model.model is None and asked.model.backbone is None
        else None,
        copies=copies,
        in_full=_in_full(config, splits),
    )


def _in_full(config: Config, splits: Splits) -> InFull:
    """What the run measures at its end.

    The runs of a private selection choose no thresholds: their settings, which must not tell them
    apart, would contain them.
    """
    chosen_here = splits.judged_on == "validation" and config.privacy.expected_runs is None
    groups = load_subgroups(config.data.subgroups, config.data.data, splits.test)
    return InFull(chosen_here, groups=groups)


def calibrate(privacy: PrivacyConfig, n: int, spec: ViewSpec) -> PrivacyPlan:
    """The plan that the settings ask for on `n` training examples."""
    spent = read_prior_releases(privacy.prior_releases, spec.unit)
    if privacy.spend is not None:
        spent = (*spent, count_sigma(privacy))
    return PrivacyPlan.calibrate(
        n=n if privacy.n_is_public else None,
        sensitivity_multiplier=spec.sensitivity_multiplier,
        prior_releases=spent,
        unit=spec.unit,
        **privacy.model_dump(
            exclude={
                "prior_releases",
                "allow_repeats",
                "unit",
                "balance",
                "class_prevalence",
                "spend",
            }
        ),
    )


def _inputs(
    config: Config,
    views: ViewBuilder,
    splits: Splits,
    model: nn.Module,
    backbone: Backbone | None,
    device: torch.device,
) -> FreshViews:
    chosen = config.features
    if backbone is None or chosen.cache_views is None:  # only a head has cached views
        return FreshViews(views, splits, model, device)
    assert isinstance(model, BackboneClassifier)
    cache = FeatureCache(
        Path(chosen.cache_dir).expanduser(), backbone, chosen.cache_views, chosen.view_seed,
        chosen.cache_dtype, config.run.view_chunk, device,
    )  # fmt: skip
    return CachedFeatures(views, splits, model, cache)


def _pretraining(
    config: Config, views: ViewBuilder, pool: PublicPool | None, randomness: Randomness
) -> Pretraining | None:
    if pool is None or config.views.pool_role != "pretrain":
        return None
    crop, flip = views.spec.crop_padding, views.spec.flip
    spec = ViewSpec("self-aug", k_base=1, crop_padding=crop, flip=flip)
    builder = ViewBuilder(spec, views.num_classes, views.normalization)
    return Pretraining(pool, builder, config.views.pretrain_epochs, randomness.public)


def _output(config: Config) -> Path:
    if config.run.output is not None:
        return Path(config.run.output)
    started = datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    data = config.data.data
    # Pages name runs by their folders.
    name = Path(data).name.removeprefix("hf:") if public_name(data) == data else "images"
    name = name.replace(":", "-")  # not every system allows it in names
    return Path("runs") / f"{name}-{config.views.method}-{started}"
