"""A head's private step from the feature cache, against what it can't do without.

    python benchmarks/head_speed.py

Every example is in every step. The least that a step has to do is to read all cached views once,
as float32, and to multiply them by the weights and, for the gradient, by the residuals: two float32
products. The table has both, the step, and the step over the larger of the two. Medians of
interleaved rounds; the cache is a mapped file of float16, which then lies in the file cache.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from dpmix.data import TensorSource
from dpmix.models.head import LinearHead
from dpmix.privacy.plan import PrivacyPlan
from dpmix.training.cached_views import CachedViews
from dpmix.training.trainer import PrivateTrainer
from dpmix.views import ViewSpec
from step_speed import medians

CPU = torch.device("cpu")
AT_ONCE = 1 << 22  # numbers of views


def mapped(folder: str, rows: int, views: int, size: int) -> torch.Tensor:
    """Random features [rows, views, size] in a file."""
    path = Path(folder) / f"{rows}-{views}-{size}.bin"
    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(rows):
            file.write(rng.random((views, size), dtype=np.float32).astype(np.float16).tobytes())
    return torch.from_numpy(np.memmap(path, np.float16, mode="c", shape=(rows, views, size)))


def ways(features: torch.Tensor, classes: int, repeats: int) -> dict[str, Callable[[], object]]:
    """Reading, products and private steps on the same features."""
    rows, views, size = features.shape
    labels = torch.arange(rows) % classes
    data = TensorSource(torch.zeros(rows, 1, 1, 1, dtype=torch.uint8), labels,
                        tuple(map(str, range(classes))))  # fmt: skip
    plan = PrivacyPlan.calibrate(n=rows, expected_batch_size=rows, steps=repeats + 1, epsilon=3,
                                 delta=1e-5)  # fmt: skip
    spec = ViewSpec("self-aug", k_base=views)
    head = LinearHead(size, classes, "none")
    source = CachedViews(spec, spec, classes, features, None, labels)
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3)
    trainer = PrivateTrainer(head, data, plan=plan, views=source, optimizer=optimizer)
    flat = features.flatten(0, 1)
    at_once = AT_ONCE // size
    some = flat[:at_once].float()
    weights, residuals = torch.randn(size, classes), torch.randn(len(some), classes)

    def reading() -> None:
        for part in flat.split(at_once):
            part.float()

    def products() -> None:
        for part in flat.split(at_once):
            x = some[: len(part)]
            (x @ weights, residuals[: len(part)].T @ x)

    return {"reading": reading, "products": products, "step": trainer.step}


def main() -> None:
    """Print one row for each size, number of classes and number of views."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[1280, 3888])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 200])
    parser.add_argument("--views", type=int, nargs="+", default=[1, 8, 34])
    parser.add_argument("--bytes", type=int, default=400_000_000, help="size of the cache")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print("| D | L | K | examples | reading, s | products, s | step, s | step over the larger |\n"
          "|---|---|---|---|---|---|---|---|")  # fmt: skip
    for size in args.sizes:
        for views in args.views:
            with tempfile.TemporaryDirectory() as folder:
                rows = args.bytes // (2 * size * views)
                features = mapped(folder, rows, views, size)
                for classes in args.classes:
                    taken = medians(ways(features, classes, args.repeats), args.repeats, CPU)
                    ratio = taken["step"] / max(taken["reading"], taken["products"])
                    shown = " | ".join(f"{taken[name]:.2f}" for name in taken)
                    print(f"| {size} | {classes} | {views} | {rows} | {shown} | {ratio:.1f} |",
                          flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
