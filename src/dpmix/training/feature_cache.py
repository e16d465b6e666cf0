"""The feature cache: M views of every example embedded once, K of them drawn each step.

Formal guarantee: row i of the cache is a function of example i (its pixels and label), public data
(the backbone, the pool, the view seed) and nothing else. For its views are built alone, its draws
come from a hash of itself and the seed, and it is embedded in a batch of its own views. So removing
an example removes its row and leaves every other row as it was, to the last bit, wherever the
example stood; and a private step on cached views clips one gradient per row. The sensitivity is C,
as with fresh views, and the view seed need not be secret: the bound holds for any fixed views, and
no part of the accounting counts on their draws. `tests/properties/test_cache_isolation.py` checks
it.

Draws drawn in order instead, from one known seed, would shift for every example after a removed
one; and in a batch of several examples the last bits of one's features can depend on the others.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from dpmix.data.fingerprint import fingerprint
from dpmix.data.source import ImageSource
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.training.feature_store import FeatureStore, Layout
from dpmix.views.builder import ViewBuilder, ViewSet
from dpmix.views.spec import ViewSpec, enlarged, kinds

# One example a core: several small passes at once instead of one that is spread over all cores.
#
# The views of one example are too few to keep many cores busy in one pass; measured on two cores,
# MobileNetV2 embeds 36 views 1.6 times as fast with one example on each. Off the CPU one pass at a
# time fills the device.


Map = Callable[..., Iterator[Any]]


"""As the built-in `map`."""


@contextmanager
def cpu_parallel_map(device: torch.device) -> Iterator[Map]:
    """Yield a `map` that keeps the order, and runs calls at once on a CPU with several threads."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield map
        return
    # torch counts threads by the thread that asks.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def ordered(call: Callable[..., Any], *arguments: Iterable[Any]) -> Iterator[Any]:
        return pool.map(call, *arguments)

    try:
        yield ordered
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


CACHE_VIEWS = 36


Report = Callable[[int, int], None]


Row = tuple[Float[Tensor, "R M D"], Float[Tensor, "R M L"] | None]


_READ_TOGETHER = 256


_TEST_BATCH = 64


_PROBE_VIEWS = 8


_LONG_VIEW = 0.1  # seconds


@dataclass(frozen=True, eq=False)
class CachedViews:
    """A `ViewSource` that draws from embedded views.

    Attributes:
        spec: the method, of K views.
        cached: the same with M views.
        num_classes: L.
        features: [N, M, D], mapped from a file.
        soft_labels: [N, M, L] where views have other labels than their example's.
        labels: the examples' own classes.
    """

    spec: ViewSpec
    cached: ViewSpec
    num_classes: int
    features: Float[Tensor, "N M D"]
    soft_labels: Float[Tensor, "N M L"] | None
    labels: Int64[Tensor, " N"]

    def view_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, ...]:
        """The shape of one embedded view, [D]."""
        return (self.features.shape[2],)

    def check_data(self, data: ImageSource) -> None:
        """Refuse data that these are not the views of.

        Raises:
            DpmixError: other labels, or as many examples as rows not given.
        """
        if not torch.equal(data.labels, self.labels):
            raise DpmixError(
                "the feature cache holds examples with other labels than those of the data; make "
                "it from the same data"
            )

    def sample(
        self,
        data: ImageSource,
        examples: Int64[Tensor, " B"],
        rng: np.random.Generator,
        device: torch.device,
    ) -> ViewSet:
        """Draw K of the M views of each example without replacement, of each kind its number."""
        chosen = self._chosen(len(examples), rng)
        rows = (examples[:, None] * self.features.shape[1] + chosen).flatten()
        shape = (len(examples), self.spec.views, -1)
        features = self.features.flatten(0, 1).index_select(0, rows).to(device).float()
        return ViewSet(features.view(shape), self._labels(examples, rows, device))

    def _labels(
        self, examples: Int64[Tensor, " B"], rows: Int64[Tensor, " R"], device: torch.device
    ) -> Float[Tensor, "B K L"]:
        shape = (len(examples), self.spec.views, self.num_classes)
        if self.soft_labels is None:
            own = F.one_hot(self.labels[examples].to(device), self.num_classes).float()
            return own[:, None].expand(shape)
        soft = self.soft_labels.flatten(0, 1).index_select(0, rows).to(device).float()
        # Half precision moves their sum from one by a part in a thousand.
        return (soft / soft.sum(dim=1, keepdim=True)).view(shape)

    def _chosen(self, count: int, rng: np.random.Generator) -> Int64[Tensor, "B K"]:
        """Which of an example's M views: a uniformly random subset of each kind."""
        parts, start = [], 0
        for wanted, there in zip(kinds(self.spec), kinds(self.cached), strict=True):
            order = np.broadcast_to(np.arange(there), (count, there))
            if wanted < there:
                order = rng.random((count, there)).argpartition(wanted - 1, axis=1)[:, :wanted]
            parts.append(start + order)
            start += there
        return torch.from_numpy(np.concatenate(parts, axis=1))


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Makes, finds and resumes the stores of one backbone.

    Attributes:
        root: folder of all stores.
        backbone: frozen, on its device.
        views: M, embedded views of an example.
        seed: of their random draws; public.
        dtype: float16 or float32.
        view_chunk: at most so many views in one pass of the backbone; None: all of one example's.
    """

    root: Path
    backbone: Backbone
    views: int
    seed: int
    dtype: str
    view_chunk: int | None
    device: torch.device

    def check(self, builder: ViewBuilder) -> None:
        """Refuse views that can't be cached, before any is made.

        Raises:
            DpmixError: a method whose views join examples, or fewer views than a step takes.
        """
        if builder.spec.examples_per_group > 1:
            raise DpmixError(
                f"method {builder.spec.method} joins other examples at every step, so its views "
                "can't be cached; give --fresh-views"
            )
        enlarged(builder.spec, self.views)

    def train_store(self, data: ImageSource, builder: ViewBuilder) -> FeatureStore:
        """The store of the training examples' views, made or not.

        Raises:
            DpmixError: as `check` raises.
        """
        self.check(builder)
        layout = self.train_layout(data, builder)
        spec, pool = enlarged(builder.spec, self.views), builder.pool
        key = self._key(data) | {
            "spec": asdict(spec),
            "seed": self.seed,
            "pool": pool and fingerprint_of(pool.images, pool.labels),
        }
        return FeatureStore(self.root, key, layout)

    def test_store(self, data: ImageSource) -> FeatureStore:
        """The store of the test images' features."""
        return FeatureStore(self.root, self._key(data), self.test_layout(data))

    def train_layout(self, data: ImageSource, builder: ViewBuilder) -> Layout:
        """The rows of `train_store`, known before anything is read."""
        spec = enlarged(builder.spec, self.views)
        classes = builder.num_classes if builder.pool is not None else 0
        return self._layout(len(data), spec.views, classes)

    def test_layout(self, data: ImageSource) -> Layout:
        """The rows of `test_store`."""
        return self._layout(len(data), 1, 0)

    def seconds_per_view(self, image_shape: tuple[int, int, int], builder: ViewBuilder) -> float:
        """Measured on a few views of a random public image [C, H, W] on each core."""
        image = torch.randint(0, 256, (1, *image_shape), dtype=torch.uint8, device=self.device)
        draws = builder.draw_views(1, np.random.default_rng())
        label = torch.zeros(1, dtype=torch.int64, device=self.device)
        views = builder.build(image, label, draws).views[0, :_PROBE_VIEWS]

        cores = torch.get_num_threads() if self.device.type == "cpu" else 1

        def embed(some: Tensor) -> float:
            with torch.inference_mode():
                return float(self.backbone.module(some).sum())

        def timed(some: Tensor) -> float:
            start = time.perf_counter()
            list(map_(embed, [some] * cores))
            return (time.perf_counter() - start) / (cores * len(some))

        with cpu_parallel_map(self.device) as map_:
            warm_up = timed(views[:1])
            # Where one view takes long, eight would be no more exact.
            return timed(views[:1] if warm_up * cores > _LONG_VIEW else views)

    def embed_train(self, data: ImageSource, builder: ViewBuilder, report: Report) -> CachedViews:
        """Embed what is missing, and map the rest.

        Args:
            data: private examples.
            builder: the method, of K views.
            report: told (views done, views in all).

        Raises:
            DpmixError: as `train_store` and `FeatureStore.writing` raise.
        """
        store = self.train_store(data, builder)
        whole = self._whole(builder)
        cached = whole.spec

        def row(image: Tensor, label: Tensor) -> Row:
            return self._row(image, label, whole, store.layout.classes > 0)

        def rows(index: Tensor, map_: Map) -> Iterator[Row]:
            return map_(row, data.images(index), data.labels[index])

        self._fill(store, rows, lambda done: report(done * cached.views, len(data) * cached.views))
        return CachedViews(
            builder.spec, cached, builder.num_classes, store.features(), store.labels(), data.labels
        )

    def embed_test(self, data: ImageSource, report: Report) -> Float[Tensor, "N D"]:
        """Features of the images themselves, many at a time: the test split is not protected."""
        store = self.test_store(data)

        def row(images: Tensor) -> Row:
            return self.backbone.features(images.to(self.device))[:, None], None

        def rows(index: Tensor, map_: Map) -> Iterator[Row]:
            return map_(row, data.images(index).split(_TEST_BATCH))

        self._fill(store, rows, lambda done: report(done, len(data)))
        return store.features().flatten(0, 1)

    def _whole(self, builder: ViewBuilder) -> ViewBuilder:
        """The builder of all M views."""
        return replace(builder, spec=enlarged(builder.spec, self.views))

    def _fill(
        self,
        store: FeatureStore,
        rows: Callable[[Tensor, Map], Iterator[Row]],
        report: Callable[[int], None],
    ) -> None:
        """Append the rows that `store` lacks, in order; `report` first hears how many are there."""
        report(done := store.done())
        if done == store.layout.rows:
            return
        with store.writing() as writer, cpu_parallel_map(self.device) as map_:
            for index in torch.arange(writer.done, store.layout.rows).split(_READ_TOGETHER):
                for features, labels in rows(index, map_):
                    writer.append(features, labels)
                    report(writer.done)

    def _row(
        self, image: UInt8[Tensor, "C H W"], label: Tensor, whole: ViewBuilder, soft: bool
    ) -> Row:
        """All views of one example, from its own draws, embedded together and with no other."""
        draws = whole.draw_views(1, example_rng(image, label, self.seed))
        made = whole.build(image[None].to(self.device), label[None].to(self.device), draws)
        with torch.inference_mode():
            chunks = made.views[0].split(self.view_chunk or len(made.views[0]))
            features = torch.cat([self.backbone.module(chunk) for chunk in chunks])
        return features[None], made.labels if soft else None

    def _layout(self, rows: int, views: int, classes: int) -> Layout:
        return Layout(rows, views, self.backbone.embedding_size, self.dtype, classes)

    def _key(self, data: ImageSource) -> dict[str, Any]:
        return {
            "data": fingerprint(data),
            "backbone": self.backbone.name,
            "weights": self.backbone.weights_sha256,
        }


def example_rng(
    image: UInt8[Tensor, "C H W"], label: Int64[Tensor, ""], seed: int
) -> np.random.Generator:
    """The draws of one example: a function of it and of the public seed, whatever its place."""
    digest = sha256(f"{seed} {int(label)} {list(image.shape)} ".encode())
    digest.update(image.contiguous().numpy().tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


def fingerprint_of(*tensors: Tensor) -> str:
    """The sha256 of public tensors."""
    digest = sha256()
    for tensor in tensors:
        for part in tensor.split(1024):
            digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
