"""Images a second that the default backbone embeds, against the best of three runtimes.

    python benchmarks/embed_speed.py --pixels 96 160

`dpmix` embeds in passes of 8 images, one pass a core, each row a function of its unit alone. The
others may do as they like: torch in any batch, both memory layouts, with all cores on a batch or a
batch a core; torch.compile; onnxruntime. Medians of interleaved rounds, float32.
"""

import argparse
import copy
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from dpmix.models.backbones.load import load_backbone
from dpmix.training.feature_cache import cpu_parallel_map, one_thread
from dpmix.training.passes import Passes
from step_speed import medians

CPU = torch.device("cpu")
BATCHES = (1, 8, 32, 128)


def a_batch_a_core(module: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> None:
    """As the cache does it."""
    with torch.inference_mode(), cpu_parallel_map(CPU) as map_:
        list(map_(torch.inference_mode()(module), images.split(batch)))


def all_cores(module: Callable[[Tensor], Tensor], images: Tensor, batch: int) -> None:
    """One batch after the other."""
    with torch.inference_mode():
        for part in images.split(batch):
            module(part)


def by_onnxruntime(module: nn.Module, images: Tensor) -> dict[str, Callable[[], None]]:
    """The same network in onnxruntime, in two batch sizes."""
    import onnxruntime

    ways: dict[str, Callable[[], None]] = {}
    for batch in (8, 64):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "module.onnx"
            torch.onnx.export(module, (images[:batch],), path, dynamo=True)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        parts = [part.numpy() for part in images.split(batch)]
        ways[f"onnxruntime, {batch}"] = lambda session=session, name=name, parts=parts: [
            session.run(None, {name: part}) for part in parts
        ]
    return ways


def main() -> None:
    """Print one table a size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[96, 160])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    for pixels in args.pixels:
        module = load_backbone("efficientnet-lite0", CPU, input_size=pixels).module
        images = torch.randn(args.images, 3, pixels, pixels)
        with one_thread(CPU):
            passes = Passes(module, (3, pixels, pixels), CPU, 1)
        layouts = {"": module, ", channels last": copy.deepcopy(module).to(
            memory_format=torch.channels_last)}  # fmt: skip
        ways: dict[str, Callable[[], None]] = {
            f"dpmix, passes of {passes.size}": partial(
                a_batch_a_core, passes.embed, images, passes.size
            )
        }
        for layout, net in layouts.items():
            given = images.contiguous(
                memory_format=torch.channels_last if layout else torch.contiguous_format
            )
            for batch in BATCHES:
                for how in (a_batch_a_core, all_cores):
                    ways[f"torch, {how.__name__}, {batch}{layout}"] = partial(
                        how, net, given, batch
                    )
        try:
            compiled = torch.compile(module)
            all_cores(compiled, images, 64)
            ways["torch.compile, 64"] = partial(all_cores, compiled, images, 64)
        except Exception as error:
            print(f"torch.compile cannot: {type(error).__name__}: {str(error)[:80]}")
        ways |= by_onnxruntime(module, images)
        seconds = medians(ways, args.repeats, CPU)
        best = min(seconds.values())
        print(f"\n{pixels} px, {torch.get_num_threads()} threads")
        print("| way | images a second | of the best |\n|---|---|---|")
        for name, taken in sorted(seconds.items(), key=lambda pair: pair[1]):
            print(f"| {name} | {args.images / taken:.0f} | {best / taken:.2f} |", flush=True)


if __name__ == "__main__":
    main()
