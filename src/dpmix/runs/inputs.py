"""What the steps of a run read: fresh views of its images, or cached features of a backbone.

Whether features are cached is asked once, where `build_run` makes one of the two classes here.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor, nn

from dpmix.data.image import Progress
from dpmix.data.source import ImageSource
from dpmix.data.splits import Splits
from dpmix.errors import DpmixError
from dpmix.models.head import BackboneClassifier
from dpmix.training.cached_views import CachedViews
from dpmix.training.evaluate import Evaluation, InFull, evaluate, evaluate_features
from dpmix.training.feature_cache import FeatureCache
from dpmix.views.builder import ViewBuilder, ViewSet, ViewSource
from dpmix.views.labels import soft_labels
from dpmix.views.spec import ViewSpec

Judge = Callable[[nn.Module, bool], Evaluation]
"""Evaluates a model, in full if it is the last one."""


class FreshViews:
    """New views at every step, through the whole model."""

    views: ViewSource
    trained: nn.Module
    timed_groups = 8

    def __init__(
        self, builder: ViewBuilder, splits: Splits, model: nn.Module, device: torch.device
    ) -> None:
        self.builder, self.splits, self.device = builder, splits, device
        self.views, self.trained = builder, model

    def embed(self, examples: ImageSource, report: Progress) -> None:
        """Embed the views of this process's training images that a cache lacks, before a step."""

    def judge(self, report: Progress, in_full: InFull) -> Judge:
        """Evaluates a model on the test or validation images, which may be embedded first."""
        test, constants = self.splits.test, self.builder.normalization
        return lambda model, last: evaluate(
            model, test, constants, self.device, in_full if last else None
        )

    def random_views(self, groups: int, rng: np.random.Generator) -> ViewSet:
        """`groups` view sets of public random images, or random features like the cached ones."""
        examples = groups * self.builder.spec.examples_per_group
        shape = (examples, *self.splits.train.image_shape)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, device=self.device)
        labels = self._random_labels(examples)
        return self.builder.build(images, labels, self.builder.draw_views(groups, rng))

    def _random_labels(self, count: int) -> Int64[Tensor, "B *L"]:
        classes, of = self.builder.num_classes, self.splits.train.labels.shape[1:]
        return torch.randint(0, 2 if of else classes, (count, *of), device=self.device)

    def require_images(self) -> None:
        """Refuse an audit whose canaries are images, where features are cached."""

    def cache_size(self, n_is_public: bool) -> str | None:
        """What is embedded, and where, in words. The number of views would tell a private N."""
        return None

    def seconds_to_embed(self) -> float:
        """Time to embed everything, from a few views of a random image."""
        return 0.0


class CachedFeatures(FreshViews):
    """A `ViewSource` of cached features, for the head alone.

    A trainer can be made before `embed`, so that it checks the model before hours of embedding.
    """

    timed_groups = 128  # of a small head fewer would measure the start of a call

    def __init__(
        self, builder: ViewBuilder, splits: Splits, model: BackboneClassifier, cache: FeatureCache
    ) -> None:
        super().__init__(builder, splits, model.head, cache.device)
        self.views, self.cache = self, cache
        self._embedded: CachedViews | None = None

    @property
    def spec(self) -> ViewSpec:
        """Which views."""
        return self.builder.spec

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The shape of one embedded view: [D]."""
        return (self.cache.backbone.embedding_size,)

    def check_data(self, data: ImageSource) -> None:
        """Refuse data or a method whose views can't be cached."""
        self.builder.check_data(data)
        self.cache.check(self.builder)

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        """K of the embedded views of each example, on `device`."""
        assert self._embedded is not None
        return self._embedded.sample(data, examples, rng, device)

    def embed(self, examples: ImageSource, report: Progress) -> None:  # noqa: D102
        whole = examples is self.splits.train
        digests = self.splits.train_digests if whole else None
        self._embedded = self.cache.embed_train(examples, self.builder, report, digests)
        self._embedded.check_data(examples)

    def judge(self, report: Progress, in_full: InFull) -> Judge:  # noqa: D102
        test = self.splits.test
        features = self.cache.embed_test(test, report)
        return lambda _, last: evaluate_features(
            self.trained, features, test, self.device, in_full if last else None
        )

    def random_views(self, groups: int, rng: np.random.Generator) -> ViewSet:  # noqa: D102
        views, labels = self.spec.views, self._random_labels(groups)
        soft = soft_labels(labels, self.builder.num_classes)[:, None].expand(-1, views, -1)
        shape = (groups, views, self.cache.backbone.embedding_size)
        return ViewSet(torch.rand(shape, device=self.device), soft)

    def require_images(self) -> None:  # noqa: D102
        raise DpmixError(
            "image canaries are not in a cache of features; give --fresh-views, or audit by "
            "gradient canaries"
        )

    def cache_size(self, n_is_public: bool) -> str | None:  # noqa: D102
        train = self.cache.train_layout(self.splits.train, self.builder)
        test = self.cache.test_layout(self.splits.test)
        judged, where = f"{test.rows:,} {self.splits.judged_on} images", f"in {self.cache.root}"
        if not n_is_public:
            return f"{train.views} views of each training image and {judged}, {where} (private)"
        size = (train.bytes + test.bytes) / 1e9
        views = self.cache.train_views(self.splits.train, self.builder)
        return f"{views:,} views and {judged}, {size:.2f} GB {where} (private)"

    def seconds_to_embed(self) -> float:  # noqa: D102
        views = self.cache.train_views(self.splits.train, self.builder) + len(self.splits.test)
        return views * self.cache.seconds_per_view(self.splits.train.image_shape, self.builder)
