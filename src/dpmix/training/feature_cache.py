"""The feature cache: M views of every example embedded once, K of them drawn each step.

An example is a unit of privacy: an image, or a person with all their images.

Formal guarantee: row i of the cache is a function of example i (its pixels and labels), public data
(the backbone, the pool, the view seed) and nothing else: its views are built alone, their draws
come from a hash of the example and the seed, and they share a pass of the backbone with others only
where a probe saw that this changes no bit (`passes.py`). So removing
an example removes its row and leaves every other row as it was, to the last bit; and a private step
on cached views clips one gradient per row. The sensitivity is C, as with fresh views, for any fixed
views: their seed need not be secret. `tests/properties/test_cache_isolation.py` checks it.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from dpmix.data.fingerprint import fingerprint
from dpmix.data.source import ImageSource, persons_of, unit_count
from dpmix.errors import DpmixError
from dpmix.models.backbones.backbone import Backbone
from dpmix.training.cached_views import CachedViews
from dpmix.training.feature_store import FeatureStore, Layout
from dpmix.training.passes import Passes
from dpmix.views.builder import ViewBuilder
from dpmix.views.persons import person_images
from dpmix.views.spec import enlarged

CACHE_VIEWS = 36
_READ = 256  # images read at a time

# Called with (views done, views in all).
Report = Callable[[int, int], None]
Map = Callable[..., Iterator[Any]]
# Features and soft labels of R examples.
Row = tuple[Float[Tensor, "R M D"], Float[Tensor, "R M L"] | None]


@dataclass(frozen=True, eq=False)
class FeatureCache:
    """Finds, makes and resumes the stores of one backbone's features.

    Attributes:
        root: folder of all stores.
        backbone: the frozen network, on `device`.
        views: number of embedded views per example, M.
        seed: seed of the views' random draws; public.
        dtype: `float16` or `float32`.
        view_chunk: most views in one pass of the backbone; None: a number that is fast.
        device: where to embed.
    """

    root: Path
    backbone: Backbone
    views: int
    seed: int
    dtype: str
    view_chunk: int | None
    device: torch.device

    def check(self, builder: ViewBuilder) -> None:
        """Refuse a method whose views join examples, or that takes more views than are cached."""
        if builder.spec.examples_per_group > 1:
            raise DpmixError(
                f"method {builder.spec.method} joins other examples at every step, so its views "
                "can't be cached; give --fresh-views"
            )
        enlarged(builder.spec, self.views)

    def train_layout(self, data: ImageSource, builder: ViewBuilder) -> Layout:
        """The layout of the training examples' store, known before anything is read."""
        views, by_person = enlarged(builder.spec, self.views).views, builder.spec.unit == "person"
        # The views of one image have its label, unless public images join.
        classes = builder.num_classes if builder.pool is not None or by_person else 0
        rows = unit_count(data, builder.spec.unit)
        return Layout(rows, views, self.backbone.embedding_size, self.dtype, classes)

    def train_views(self, data: ImageSource, builder: ViewBuilder) -> int:
        """How many views of the training examples are embedded."""
        layout = self.train_layout(data, builder)
        if builder.spec.method == "none" and builder.spec.unit == "person":
            return int(persons_of(data).counts.clamp(max=layout.views).sum())
        return layout.rows * layout.views

    def test_layout(self, data: ImageSource) -> Layout:
        """The layout of the test images' store."""
        return Layout(len(data), 1, self.backbone.embedding_size, self.dtype)

    def seconds_per_view(self, image_shape: tuple[int, int, int], builder: ViewBuilder) -> float:
        """Time to embed one view, measured on views of a random public image [C, H, W]."""
        image = torch.randint(0, 256, (1, *image_shape), dtype=torch.uint8, device=self.device)
        label = torch.zeros(1, dtype=torch.int64, device=self.device)
        draws = builder.draw_views(1, np.random.default_rng())
        source = torch.zeros(1, builder.spec.base_views).long()
        views = builder.build(image, label, draws, source).views[0]
        passes = self._passes(image_shape, len(views))
        views = views[:1].repeat(passes.size if passes.shared else len(views), 1, 1, 1)
        cores = torch.get_num_threads() if self.device.type == "cpu" else 1
        with cpu_parallel_map(self.device) as map_:
            for _ in range(2):  # the first warms up
                start = time.perf_counter()
                # Reading a value back waits for the device.
                list(map_(lambda x: float(passes.embed(x).sum()), [views] * cores))
        return (time.perf_counter() - start) / (cores * len(views))

    def embed_train(
        self,
        data: ImageSource,
        builder: ViewBuilder,
        report: Report,
        digests: UInt8[np.ndarray, "N 32"] | None = None,
    ) -> CachedViews:
        """Embed the views that are missing, and map all of them.

        `builder` is the method, with K views; `digests` is `image_digests(data)`, if known.

        Raises:
            DpmixError: views that can't be cached, or as `FeatureStore` raises.
        """
        self.check(builder)
        whole = replace(builder, spec=enlarged(builder.spec, self.views))
        spec, pool = whole.spec, builder.pool
        persons = persons_of(data) if spec.unit == "person" else None
        key = self._key(data, digests) | {
            "spec": asdict(spec),
            "seed": self.seed,
            "pool": pool and [_sha256(pool.images), _sha256(pool.labels)],
        }
        store = FeatureStore(self.root, key, self.train_layout(data, builder))

        # The views of an example for `none` are its images, which may be fewer.
        of_one = 1 if spec.method == "none" else spec.views

        def views_of(
            images: UInt8[Tensor, "I C H W"], labels: Int64[Tensor, "I *L"]
        ) -> tuple[Float[Tensor, "V C H W"], Float[Tensor, "M L"]]:
            draws, source = whole.draw_views(1, example_rng(images, labels, self.seed)), None
            if persons is not None:
                own, source = person_images([torch.arange(len(images))], draws, spec)
                images, labels = images[own], labels[own]
            made = whole.build(images.to(self.device), labels.to(self.device), draws, source)
            # Without draws, a view of an image is always the same: each is embedded once.
            each = len(images) if spec.method == "none" else spec.views
            return made.views[0, :each], made.labels[0]

        def row(passes: Passes, group: list[tuple[Tensor, Tensor]]) -> Row:
            made = [views_of(*unit) for unit in group]
            counts = [len(views) for views, _ in made]
            features = passes.embed(torch.cat([views for views, _ in made])).split(counts)
            turns = torch.arange(spec.views)
            rows = torch.stack([some[turns % len(some)] for some in features])
            labels = torch.stack([soft for _, soft in made])
            return rows, labels if store.layout.classes else None

        def rows(index: Tensor, map_: Map) -> Iterator[Row]:
            places = [torch.tensor([i]) for i in index.tolist()]
            if persons is not None:
                places = [persons.images(i) for i in index.tolist()]
            counts, together = [len(some) for some in places], torch.cat(places)
            images, labels = data.images(together), data.labels[together]
            examples = list(zip(images.split(counts), labels.split(counts), strict=True))
            passes = self._passes(data.image_shape, of_one)
            starts = range(0, len(examples), passes.units)
            return map_(partial(row, passes), [examples[i : i + passes.units] for i in starts])

        in_all = store.layout.rows * spec.views
        self._fill(store, rows, lambda done: report(done * spec.views, in_all))
        return CachedViews(
            builder.spec, spec, builder.num_classes, store.features(), store.labels(), data.labels,
            persons,
        )  # fmt: skip

    def embed_test(self, data: ImageSource, report: Report) -> Float[Tensor, "N D"]:
        """Features of the images themselves, many at a time: the test split is not protected."""
        store = FeatureStore(self.root, self._key(data), self.test_layout(data))

        def row(passes: Passes, images: Tensor) -> Row:
            colours = images.to(self.device).expand(-1, 3, -1, -1)
            views = self.backbone.normalization(colours)
            return passes.embed(views)[:, None], None

        def rows(index: Tensor, map_: Map) -> Iterator[Row]:
            passes = self._passes(data.image_shape, 1)
            return map_(partial(row, passes), data.images(index).split(passes.size))

        self._fill(store, rows, lambda done: report(done, len(data)))
        return store.features().flatten(0, 1)

    def _passes(self, image_shape: tuple[int, int, int], views: int) -> Passes:
        shape = (3, *image_shape[1:])
        return _probed(self.backbone.module, shape, self.device, views, self.view_chunk)

    def _fill(
        self,
        store: FeatureStore,
        rows: Callable[[Tensor, Map], Iterator[Row]],
        report: Callable[[int], None],
    ) -> None:
        in_all = store.layout.rows
        report(store.done())
        if store.done() == in_all:
            return
        with store.writing() as append, cpu_parallel_map(self.device) as map_:
            done = store.done()
            # Nothing may be left: another run has made it while this one waited.
            for start in range(done, in_all, _READ):
                for features, labels in rows(torch.arange(start, min(start + _READ, in_all)), map_):
                    append(features, labels)
                    done += len(features)
                    report(done)

    def _key(
        self, data: ImageSource, digests: UInt8[np.ndarray, "N 32"] | None = None
    ) -> dict[str, Any]:
        return {
            "data": fingerprint(data, digests),
            "backbone": self.backbone.name,
            "weights": self.backbone.weights_sha256,
        }


@lru_cache(maxsize=4)
def _probed(
    module: nn.Module, shape: tuple[int, ...], device: torch.device, views: int, most: int | None
) -> Passes:
    with one_thread(device):  # as in `cpu_parallel_map`
        return Passes(module, shape, device, views, most)


def example_rng(
    images: UInt8[Tensor, "I C H W"], labels: Int64[Tensor, "I *L"], seed: int
) -> np.random.Generator:
    """The generator of one example's views: a function of the example and the public seed."""
    of = " ".join(map(str, labels.tolist()))
    digest = sha256(f"{seed} {of} {list(images.shape[1:])} ".encode())
    digest.update(images.contiguous().numpy().tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest(), "big"))


def _sha256(tensor: Tensor) -> str:
    return sha256(tensor.reshape(-1).numpy().data).hexdigest()


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """Compute on one thread, where `device` is the CPU."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def cpu_parallel_map(device: torch.device) -> Iterator[Map]:
    """Yield a `map` that keeps the order, and on a CPU runs one call on each core.

    On two cores, MobileNetV2 embeds 36 views 1.6 times as fast with one example on each core.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield map
        return
    # The number of threads is a setting of each thread.
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
