"""What a run is made of."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpmix.clipping.model_check import check_private
from dpmix.data.fingerprint import fingerprint
from dpmix.data.normalization import Normalization, normalization
from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits, Subset
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.models.backbones.load import load_backbone
from dpmix.models.finetune import choose_trainable
from dpmix.models.head import BackboneClassifier, LinearHead
from dpmix.models.registry import build_model
from dpmix.pool.load import PoolFacts
from dpmix.pool.pool import PublicPool
from dpmix.privacy.plan import PrivacyPlan
from dpmix.runs.config import Config
from dpmix.training.distributed import Ranks
from dpmix.training.feature_cache import FeatureCache
from dpmix.training.pretrain import Pretraining
from dpmix.training.trainer import PrivateTrainer
from dpmix.views.builder import ViewBuilder, ViewSource

# The network that the settings name, and the constants that its images are normalised by.


WHITENING_IMAGES = 5000


def load(config: Config, device: torch.device, *, pretrained: bool = True) -> Backbone | None:
    """The backbone that the settings name, if any; arguments as in `build_run`.

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
    head = LinearHead(
        backbone.embedding_size, num_classes, chosen.feature_norm, chosen.feature_length
    )
    model = BackboneClassifier(backbone.module, head)
    choose_trainable(
        model, chosen.trainable, last_blocks=chosen.last_blocks, lora_rank=chosen.lora_rank
    )
    return model


def constants_of(
    config: Config, image_shape: tuple[int, int, int], backbone: Backbone | None
) -> Normalization:
    """The public constants that images [C, H, W] are normalised by: the backbone's own, if any."""
    if backbone is not None:
        return backbone.normalization
    assert config.data.normalization is not None
    return normalization(config.data.normalization, image_shape[0])


def whitens(config: Config) -> bool:
    """Whether features are whitened by a public pool."""
    return config.model.backbone is not None and config.model.feature_norm == "whiten"


def set_statistics(model: nn.Module, backbone: Backbone | None, pool: PublicPool | None) -> None:
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




@dataclass(frozen=True)
class Run:
    """Everything a run needs, nothing trained or written yet.

    Attributes:
        config: the settings with every default made explicit, enough to rebuild the model.
        splits: private training images, and those to judge on.
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
        ranks: the processes that train together.
        hint: one line on other backbones, where the user named none.
        copies: how often the most frequent training image occurs; more than once only where the
            user allowed it.
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
    ranks: Ranks
    hint: str | None
    copies: int

    @property
    def folder(self) -> Path:
        """Where the run is to be written."""
        assert self.config.run.output is not None
        return Path(self.config.run.output)

    @property
    def pool_sha256(self) -> str | None:
        """What tells the public pool from any other, if one is read."""
        return self.pool_facts.contents_sha256 if self.pool_facts else None

    @cached_property
    def examples(self) -> ImageSource:
        """The training examples of this process."""
        if self.ranks.size == 1:
            return self.splits.train
        train = self.splits.train
        return Subset.of(train, torch.arange(*self.ranks.bounds(len(train))))

    @property
    def trained(self) -> nn.Module:
        """What a step trains: the head alone, where views are cached."""
        if self.cache is None:
            return self.model
        assert isinstance(self.model, BackboneClassifier)
        return self.model.head

    def fixed(self) -> str:
        """What every process must have in common: settings but for places, and the training data.

        A process trains on its stretch of the images that it read itself, and one image in two
        stretches would be a repeat that none of them sees.
        """
        run = self.config.run
        places = {"views": {"pool", "pool_labels"}, "model": {"backbone_weights"}}
        settings = self.config.model_dump(
            exclude={"data": True, "features": True, "run": True, **places}
        )
        train = fingerprint(self.splits.train, self.splits.train_digests)
        data = (train, self.pool_sha256)
        return f"{settings} {run.seed} {run.eval_every} {data}"

    def check(self) -> None:
        """Refuse what a trainer would refuse, without embedding a view first.

        Raises:
            DpmixError: as `PrivateTrainer` raises.
        """
        self.views.check_data(self.examples)
        shape: tuple[int, ...] = self.splits.train.image_shape
        if self.cache is not None and self.backbone is not None:
            self.cache.check(self.views)
            shape = (self.backbone.embedding_size,)
        check_private(self.trained, shape)

    def trainer(self, views: ViewSource, **recorded: Any) -> PrivateTrainer:
        """A trainer wired from these parts; it checks the model and that all of them agree.

        Args:
            views: `self.views`, or what `self.cache` has embedded of them.
            recorded: `sampler`, `noise` and `clipped_sum` of `PrivateTrainer`, for audits.
        """
        run = self.config.run
        return PrivateTrainer(
            self.trained,
            self.examples,
            plan=self.plan,
            views=views,
            optimizer=self.optimizer,
            seed=run.seed,
            engine=run.engine,
            view_chunk=run.view_chunk,
            ranks=self.ranks,
            **recorded,
        )
