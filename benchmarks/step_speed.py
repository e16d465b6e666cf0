"""A DP-Mix gradient against the best non-private pass over the same views, and against peers.

For every K, in one process and in turns: the non-private pass at several micro-batch sizes (the
fastest of them is the limit), `dpmix` with every engine, and with --peers opacus (hooks; ghost
clipping for K = 1), opake and plain `torch.func`. All that is private computes the same clipped
sum, checked before anything is timed. With --memory: what the first pass of a fresh process adds at
its peak. Rows go to a CSV, --plot draws them. With --rule: the engines alone on all four models,
and whether the rule of `auto` is within 15 % of the best.

    pip install -e '.[bench]'
    python benchmarks/step_speed.py --model wrn-16-4 --views 1 4 16 34 --output speed.csv
    python benchmarks/step_speed.py --model wrn-16-4-plain --views 4 16 34 --peers opacus opake
    python benchmarks/step_speed.py --plot speed.csv docs/speed.png
    python benchmarks/step_speed.py --rule --views 1 4 16 --total 24 --repeats 3
"""

import argparse
import copy
import csv
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

from contenders import CLASSES, ENGINES, MODELS, Runs, non_private_way, private_way
from dpmix.clipping.engine import engine_by_rule
from dpmix.clipping.vectorized import vectorized_units

C = 1.0
TOLERANCE = 1.15
BATCHES = (4, 8, 16, 32, 64, 128, 272)
CHOSEN = ("examplewise", "vectorized")  # by the rule
PEERS = ("functorch", "opake", "opacus", "opacus ghost")
FIELDS = ("model", "pixels", "K", "examples", "way", "seconds", "ratio", "device", "threads",
          "torch", "note")  # fmt: skip


def inputs(pixels: int, k: int, examples: int, device: torch.device):
    """Views and soft labels of noise: what they show costs no time."""
    torch.manual_seed(0)
    views = torch.randn(examples, k, 3, pixels, pixels, device=device)
    return views, torch.rand(examples, k, CLASSES, device=device).softmax(dim=-1)


def waiting(way: Runs, device: torch.device) -> float:
    """Seconds that `way` takes until the device has done all of it."""
    start = time.perf_counter()
    way()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def medians(ways: dict[str, Runs], repeats: int, device: torch.device) -> dict[str, float]:
    """Seconds of each way, in turns after one turn to warm up."""
    seconds = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            taken = waiting(way, device)
            if turn:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def checked(names: list[str], model: torch.nn.Module, views, labels):
    """The ways that compute what `dpmix` does, ready to run, and what the others say.

    Compared in float64, on two examples: in float32 a ReLU that two kernels see on either side of
    zero moves the gradient of a convolutional network by a part in a thousand.
    """
    ready, notes, reference = {}, {}, None
    wide = copy.deepcopy(model).double()
    for name in names:
        try:
            way = private_way(name, wide, views[:2].double(), labels[:2].double(), C)
            flat = torch.cat([g.detach().double().flatten() for g in way()])
            ready[name] = private_way(name, model, views, labels, C)
        except Exception as error:
            notes[name] = f"cannot: {type(error).__name__}: {str(error).splitlines()[0][:90]}"
            continue
        reference = flat if reference is None else reference
        distance = ((flat - reference).norm() / reference.norm()).item()
        if distance > 1e-4:
            del ready[name]
            notes[name] = f"computes something else: {distance:.1e} away"
    return ready, notes


def peak(name: str, args: argparse.Namespace, k: int, examples: int) -> float:
    """Megabytes that `name` adds to a process with the model and the views."""
    command = [sys.executable, __file__, "--model", args.model, "--device", args.device,
               "--memory-of", name, "--views", str(k), "--examples", str(examples)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return float(done.stdout.split()[-1])


def most_held() -> float:
    """MiB that this process ever held; `ru_maxrss` would count what its parent did."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (peak,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(peak) / 2**10


def memory_of(name: str, args: argparse.Namespace) -> None:
    """Print it."""
    build, pixels = MODELS[args.model]
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = build().to(device).train()
    views, labels = inputs(pixels, args.views[0], args.examples, device)
    if name.startswith("non-private"):
        way = non_private_way(name, model, views, labels)
    else:
        way = private_way(name, model, views, labels, C)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        way()
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    before = most_held()
    way()
    print(most_held() - before)


def compare(args: argparse.Namespace, k: int) -> list[dict[str, object]]:
    """The rows of one K."""
    build, pixels = MODELS[args.model]
    device = torch.device(args.device)
    torch.manual_seed(0)
    model = build().to(device).train()
    examples = args.examples or max(1, args.total // k)
    views, labels = inputs(pixels, k, examples, device)
    auto = f"dpmix {engine_by_rule(model, k)[0]}"
    names = [f"dpmix {engine}" for engine in ENGINES]
    names += [peer for peer in PEERS if peer in args.peers]
    good, notes = checked(names, model, views, labels)
    notes[auto] = "auto"
    sizes = sorted({min(batch, k * examples) for batch in (k, *BATCHES)})
    plain = {
        name: non_private_way(name, model, views, labels)
        for size in sizes
        for name in (f"non-private {size}", f"non-private, channels last {size}")
    }
    seconds = medians(plain | good, args.repeats, device)
    limit = min((name for name in plain), key=seconds.__getitem__)
    shown = [limit, f"non-private {k}", *names]
    rows = []
    for name in dict.fromkeys(shown):
        taken = seconds.get(name)
        rows.append({
            "model": args.model, "pixels": pixels, "K": k, "examples": examples, "way": name,
            "seconds": taken and round(taken, 4),
            "ratio": taken and round(taken / seconds[limit], 3),
            "device": platform.processor() or platform.machine() if args.device == "cpu"
            else torch.cuda.get_device_name(), "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "note": "the limit" if name == limit else notes.get(name, ""),
        })  # fmt: skip
    return rows


def compare_rule(args: argparse.Namespace) -> bool:
    """Print the engines of every model and K; whether the rule is near the best everywhere."""
    near = True
    device = torch.device(args.device)
    print("| model | K | rule | " + " | ".join(CHOSEN) + " | rule / best |")
    print("|---|---|---|" + "---|" * (len(CHOSEN) + 1))
    for name, (build, pixels) in MODELS.items():
        torch.manual_seed(0)
        model = build().to(device).train()
        for k in args.views:
            # Whole portions: `vectorized` would fill a smaller one with zeros.
            portion = vectorized_units(model, torch.empty(0, k, device=device))
            examples = args.examples or portion * -(-args.total // (k * portion))
            given = inputs(pixels, k, examples, device)
            ways = {engine: private_way(f"dpmix {engine}", model, *given, C) for engine in CHOSEN}
            seconds = medians(ways, args.repeats, device)
            rule, _ = engine_by_rule(model, k)
            ratio = seconds[rule] / min(seconds.values())
            near = near and ratio <= TOLERANCE
            taken = " | ".join(f"{seconds[engine]:.3f} s" for engine in CHOSEN)
            print(f"| {name} | {k} | {rule} | {taken} | {ratio:.2f} |", flush=True)
    return near


def show(rows: list[dict[str, object]]) -> None:
    """A Markdown table."""
    for row in rows:
        taken, ratio = row["seconds"], row["ratio"]
        print(f"| {row['model']} | {row['K']} | {row['way']} | {taken or '-'} | {ratio or '-'} | "
              f"{row['note']} |", flush=True)  # fmt: skip


def plot(table: Path, picture: Path) -> None:
    """Ratios to the limit, a panel for every model, a group of bars for every K."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with table.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["ratio"]]
    models = list(dict.fromkeys(row["model"] for row in rows))
    ways = [w for w in dict.fromkeys(row["way"] for row in rows) if not w.startswith("non-")]
    columns = min(2, len(models))
    down = -(-len(models) // columns)
    figure, panels = plt.subplots(
        down, columns, figsize=(4 * columns, 3.2 * down + 0.8), sharey=True, squeeze=False
    )
    colours = dict(zip(ways, plt.get_cmap("tab10").colors, strict=False))
    for panel, model in zip(panels.flat, models, strict=False):
        own = {(int(r["K"]), r["way"]): float(r["ratio"]) for r in rows if r["model"] == model}
        counts = sorted({k for k, _ in own})
        for place, way in enumerate(ways):
            at = [(i, own[k, way]) for i, k in enumerate(counts) if (k, way) in own]
            offsets = [i + (place - len(ways) / 2) * 0.8 / len(ways) for i, _ in at]
            heights = [ratio for _, ratio in at]
            panel.bar(offsets, heights, 0.8 / len(ways), label=way, color=colours[way],
                      align="edge")  # fmt: skip
        panel.axhline(1, color="black", linewidth=1)
        panel.set(title=model, xlabel="views an example (K)", yscale="log")
        panel.minorticks_off()
        panel.set_yticks([1, 1.5, 2, 4, 8], ["1", "1.5", "2", "4", "8"])
        panel.set_xticks(range(len(counts)), counts)
    for panel in panels[:, 0]:
        panel.set_ylabel("time / best non-private pass")
    for panel in panels.flat[len(models) :]:
        panel.remove()
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours[way]) for way in ways]
    figure.legend(handles, ways, loc="lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(picture, dpi=120)


def main() -> None:
    """Measure, or draw what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="wrn-16-4")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16, 34])
    parser.add_argument("--total", type=int, default=136, help="views in all, whatever K")
    parser.add_argument("--examples", type=int, default=0, help="instead of --total")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rule", action="store_true", help="compare the rule of `auto` only")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="CSV, to which rows are added")
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("CSV", "PNG"))
    args = parser.parse_args()
    if args.plot:
        plot(*args.plot)
        return
    if args.rule:
        sys.exit(not compare_rule(args))
    if args.memory_of:
        memory_of(args.memory_of, args)
        return
    if args.memory:
        print("| model | K | way | MiB |\n|---|---|---|---|")
        for k in args.views:
            for name in (
                f"non-private {k}",
                *(f"dpmix {engine}" for engine in ENGINES),
                *args.peers,
            ):
                held = peak(name, args, k, args.examples or max(1, args.total // k))
                print(f"| {args.model} | {k} | {name} | {held:.0f} |", flush=True)
        return
    print("| model | K | way | seconds | ratio | |\n|---|---|---|---|---|---|")
    for k in args.views:
        rows = compare(args, k)
        show(rows)
        if args.output:
            new = not args.output.exists()
            with args.output.open("a", newline="") as file:
                writer = csv.DictWriter(file, FIELDS)
                if new:
                    writer.writeheader()
                writer.writerows(rows)


if __name__ == "__main__":
    main()
