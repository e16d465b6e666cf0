"""Both engines against ONE non-private pass over the same views, for several K.

The ratio is time of the clipped sum over time of an ordinary forward and backward on all views
together; medians of interleaved repeats. `auto` follows what this shows (`privacy/clipping.py`).

    python benchmarks/engines.py [--model cnn-small] [--size 28] [--views 272] [--repeats 5]
"""

import argparse
import statistics
import time

import torch

from dpmix.models import build_model
from dpmix.privacy.clipping import choose_engine, clipped_gradient_sum
from dpmix.training.loss import soft_cross_entropy

CLASSES = 10


def plain_pass(model, views, labels) -> None:
    """The limit: gradient of the mean over all views, nothing per example."""
    loss = soft_cross_entropy(model(views.flatten(0, 1)), labels.flatten(0, 1)).mean()
    torch.autograd.grad(loss, list(model.parameters()))


def medians(model, views, labels, repeats: int) -> dict[str, float]:
    """Seconds of each way, measured in turns after one turn to warm up."""
    ways = {"plain": lambda: plain_pass(model, views, labels)}
    for engine in ("examplewise", "vectorized"):
        ways[engine] = lambda engine=engine: clipped_gradient_sum(
            model, soft_cross_entropy, views, labels, 1.0, engine=engine
        )
    seconds = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    """Print a row for every K."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cnn-small")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--views", type=int, default=272, help="views in all, whatever K")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    model = build_model(args.model, in_channels=3, num_classes=CLASSES)
    print(f"{args.model}, {args.size} px, {args.views} views, {torch.get_num_threads()} threads")
    print("| K | plain pass, s | examplewise | vectorized | auto takes |\n|---|---|---|---|---|")
    for k in (1, 2, 4, 8, 16, 34):
        views = torch.randn(args.views // k, k, 3, args.size, args.size)
        labels = torch.full((args.views // k, k, CLASSES), 1 / CLASSES)
        taken = medians(model, views, labels, args.repeats)
        ratios = [f"{taken[name] / taken['plain']:.2f}" for name in ("examplewise", "vectorized")]
        auto, _ = choose_engine(model, k)
        print(f"| {k} | {taken['plain']:.3f} | {' | '.join(ratios)} | {auto} |", flush=True)


if __name__ == "__main__":
    main()
