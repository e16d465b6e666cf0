"""One table of what a device does: steps, embedding and noise (see gpu.sh).

    python benchmarks/gpu.py --device cuda --json gpu.json
    python benchmarks/gpu.py --device cpu --mini --json mini.json

Steps: the clipped sum of 256 or 1,024 views by every engine and by opacus, against the best pass
without privacy over the same views, plain or compiled with CUDA graphs, in float32 and bfloat16.
Embedding: images a second of the default backbone, in the passes that dpmix takes and in the best
batch. Noise: seconds to draw it on the host, and what a step takes longer for it.

Each figure is the median of interleaved rounds. What the time did not suffice for is listed.
Engines fill portions up: of 4 views, as in --mini, their figures mean nothing.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from torch import nn

from contenders import CLASSES, non_private, plain_wide_resnet, private_way, wide_resnet
from dpmix.errors import DISTRIBUTION
from dpmix.models import build_model
from dpmix.models.backbones.load import load_backbone
from dpmix.privacy.noise import GaussianNoise
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.randomness import SecureStream
from dpmix.training.passes import Passes
from step_speed import waiting

C, ROUNDS = 1.0, 3
WAYS = ("dpmix examplewise", "dpmix vectorized", "dpmix bookkeeping", "opacus")
BATCHES = (64, 256, 1024)


def vit_small(pixels: int, **smaller: int) -> nn.Module:
    """ViT-S/16, all of it trained."""
    return timm.create_model(
        "vit_small_patch16_224", img_size=pixels, num_classes=CLASSES, **smaller
    )


class Table:
    """Figures, printed as they come, until the time is over."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.device, self._end = device, time.monotonic() + seconds
        self.rows: list[dict[str, object]] = []
        self.left_out: list[str] = []

    def add(self, what: str, ways: dict[str, Callable[[], object]], unit: float) -> None:
        """Time `ways` in turns; `unit` is the number of views, images or numbers of each."""
        times: dict[str, list[float]] = {name: [] for name in ways}
        cannot: dict[str, str] = {}
        notes: dict[str, str] = {}
        for turn in range(ROUNDS + 1):
            for name in [name for name in ways if name not in cannot]:
                if time.monotonic() > self._end:
                    self.left_out.append(f"{what}: {name}, round {turn}")
                    continue
                try:
                    with warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always")
                        taken = waiting(ways[name], self.device)
                except Exception as error:
                    cannot[name] = f"cannot: {type(error).__name__}: {str(error)[:80]}"
                    continue
                if any("is not used" in str(one.message) for one in caught):
                    notes[name] = "not used: examplewise took its place"
                if turn:
                    times[name].append(taken)
        medians = {name: statistics.median(some) for name, some in times.items() if some}
        limits = [medians[name] for name in medians if name.startswith("non-private")]
        notes |= cannot
        for name in ways:
            taken = medians.get(name)
            ratio = taken / min(limits) if taken and limits else None
            rate = unit / taken if taken else None
            self.rows.append({"what": what, "way": name, "seconds": taken, "per_second": rate,
                              "over_limit": ratio, "note": notes.get(name, "")})  # fmt: skip
            shown = "-" if taken is None else f"{taken:.4f} s | {rate:,.0f}"
            print(f"| {what} | {name} | {shown} | {f'{ratio:.2f}' if ratio else '-'} | "
                  f"{notes.get(name, '')} |", flush=True)  # fmt: skip


def add_steps(table: Table, name: str, model: nn.Module, pixels: int, k: int, total: int) -> None:
    """Every way that computes this model's clipped sum, against the pass without privacy."""
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        subject = model.to(table.device, dtype).train()
        examples = max(1, total // k)
        views = torch.randn(examples, k, 3, pixels, pixels, device=table.device, dtype=dtype)
        labels = torch.rand(examples, k, CLASSES, device=table.device).softmax(-1).to(dtype)
        ways: dict[str, Callable[[], object]] = {}
        compiled = torch.compile(subject, mode="reduce-overhead")
        for batch in {min(batch, examples * k) for batch in BATCHES}:
            given = (views, labels, batch)
            ways[f"non-private {batch}"] = partial(non_private, subject, *given)
            if table.device.type == "cuda":
                ways[f"non-private, compiled {batch}"] = partial(non_private, compiled, *given)
        for way in WAYS:
            # Of standardised weights, opacus computes something else.
            if not (way == "opacus" and name == "wrn-16-4"):
                ways[way] = private_way(way, subject, views, labels, C)
        table.add(f"{name}, K = {k}, {str(dtype).removeprefix('torch.')}", ways, examples * k)


def add_embedding(table: Table, pixels: int, images: int) -> None:
    """The default backbone."""
    backbone = load_backbone("efficientnet-lite0", table.device, input_size=pixels)
    views = torch.randn(images, 3, pixels, pixels, device=table.device)
    passes = Passes(backbone.module, (3, pixels, pixels), table.device, 1, None)
    ways: dict[str, Callable[[], object]] = {
        f"dpmix, passes of {passes.size}": lambda: [
            passes.embed(p) for p in views.split(passes.size)
        ]
    }
    with torch.inference_mode():
        for batch in BATCHES:
            ways[f"non-private {batch}"] = lambda batch=batch: [
                backbone.module(part) for part in views.split(batch)
            ]
        table.add(f"embedding at {pixels} px", ways, images)


def add_noise(table: Table, numbers: int, model: nn.Module, pixels: int) -> None:
    """Drawn alone, and in the background of a pass."""
    plan = PrivacyPlan.calibrate(n=1000, expected_batch_size=100, steps=10, epsilon=3, delta=1e-5)
    noise, sums = GaussianNoise(plan), [torch.zeros(numbers, device=table.device)]
    model = model.to(table.device, torch.float32)
    views = torch.randn(20, 1, 3, pixels, pixels, device=table.device)
    labels = torch.rand(20, 1, CLASSES, device=table.device).softmax(-1)

    def passed() -> None:
        non_private(model, views, labels, 20)

    def together() -> None:
        drawn = noise.draw(sums, SecureStream())
        passed()
        noise.release(sums, drawn)

    ways = {
        "draw and add": lambda: noise.release(sums, noise.draw(sums, SecureStream())),
        "a pass over 20 images": passed,
        "both at once": together,
    }
    table.add(f"noise of {numbers:,} numbers", ways, numbers)


def main() -> None:
    """Measure in the order of what is wanted most."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=420, help="for all of it")
    parser.add_argument("--mini", action="store_true", help="sizes that a CPU takes seconds for")
    args = parser.parse_args()
    table = Table(torch.device(args.device), args.seconds)
    print("| what | way | seconds | views or numbers a second | over the limit | note |\n"
          "|---|---|---|---|---|---|")  # fmt: skip
    if args.mini:
        small = build_model("cnn-small", in_channels=3, num_classes=CLASSES)
        add_steps(table, "cnn-small", small, 16, 2, 4)
        vit = vit_small(32, depth=1, embed_dim=32, num_heads=2)
        add_steps(table, "a small vit", vit, 32, 2, 4)
        add_embedding(table, 32, 8)
        add_noise(table, 10_000, small, 16)
    else:
        for k in (1, 4, 16, 34):
            add_steps(table, "wrn-16-4-plain", plain_wide_resnet(), 32, k, 1024)
            add_steps(table, "wrn-16-4", wide_resnet(), 32, k, 1024)
        for k in (1, 8):
            add_steps(table, "vit-small", vit_small(224), 224, k, 256)
        add_embedding(table, 160, 2048)
        for numbers in (2_750_000, 86_000_000):
            add_noise(table, numbers, wide_resnet(), 32)
    for one in table.left_out:
        print(f"left out for want of time: {one}")
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    args.json.write_text(json.dumps(
        {"device": machine, "torch": torch.__version__, "dpmix": version(DISTRIBUTION),
         "threads": torch.get_num_threads(),
         "left_out": table.left_out, "rows": table.rows}, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
