"""What a run is made of."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dpmix.config import Config
from dpmix.data import ImageSource, Splits
from dpmix.data.fingerprint import fingerprint
from dpmix.data.subset import Subset
from dpmix.models import check_private
from dpmix.models.backbone import Backbone
from dpmix.models.classifier import BackboneClassifier
from dpmix.privacy.plan import PrivacyPlan
from dpmix.public.load import PoolFacts
from dpmix.training.features import FeatureCache
from dpmix.training.pretrain import Pretraining
from dpmix.training.ranks import Ranks
from dpmix.training.step import PrivateTrainer
from dpmix.views import ViewBuilder
from dpmix.views.view_source import ViewSource

T = TypeVar("T", bound=PrivateTrainer)


@dataclass(frozen=True)
class Assembly:
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

    def trainer(self, views: ViewSource) -> PrivateTrainer:
        """A trainer wired from these parts; it checks the model and that all of them agree.

        Args:
            views: `self.views`, or what `self.cache` has embedded of them.
        """
        return self.trainer_of(PrivateTrainer, views)

    def trainer_of(self, kind: type[T], views: ViewSource) -> T:
        """The same, of a `kind` of trainer."""
        run = self.config.run
        return kind(
            self.trained,
            self.examples,
            plan=self.plan,
            views=views,
            optimizer=self.optimizer,
            seed=run.seed,
            engine=run.engine,
            view_chunk=run.view_chunk,
            compiled=run.compile,
            ranks=self.ranks,
        )
