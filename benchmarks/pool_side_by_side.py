"""Methods side by side with one public pool: accuracy over seeds, and time a step.

Every method has the same budget, batch, steps and rate: the defaults of `dpmix train`, chosen on
other data and tuned on none of this; and the paper's views. The training set is the first 500
images of each class of CIFAR-10 (or as many as asked for), the test set is whole:

    python benchmarks/pool_side_by_side.py cifar10.npz tiny_imagenet_32.npz map.csv 500 0,1,2
"""

import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

import dpmix

RECIPE = {"model": "cnn-small", "expected_batch_size": 400, "steps": 50}
VIEWS = {"k_base": 16, "k_self": 18}
METHODS = {
    "self-aug, 34 views": {"method": "self-aug", "k_base": 34},
    "mix-self": {"method": "mix-self", **VIEWS},
    "mix-diff": {"method": "mix-diff", **VIEWS},
    "mix-diff, other-class": {"method": "mix-diff", "pool_draw": "other-class", **VIEWS},
    "mix-diff, extra": {"method": "mix-diff", "pool_role": "extra", **VIEWS},
    "mix-self after pretraining": {"method": "mix-self", "pool_role": "pretrain", **VIEWS},
}


def subset(source: str, per_class: int, folder: Path) -> Path:
    """The first images of each class of the training split, and all test images."""
    archive = np.load(source)
    # Once: every access unpacks the whole array.
    labels, ends, blob = (archive[f"train_{name}"] for name in ("label", "end", "jpeg"))
    first = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
    chosen = np.sort(np.concatenate(first))
    starts = np.r_[0, ends[:-1]]
    files = [blob[starts[i] : ends[i]] for i in chosen]
    path = folder / f"{Path(source).stem}-{len(chosen)}.npz"
    kept = {name: archive[name] for name in archive.files if not name.startswith("train_")}
    np.savez(
        path,
        train_jpeg=np.concatenate(files),
        train_end=np.cumsum([len(file) for file in files]),
        train_label=labels[chosen],
        **kept,
    )
    return path


def run(data: Path, pool: dict[str, str], seed: int, folder: Path, **settings) -> tuple:
    """Accuracy, and the median seconds of a step."""
    public = pool if "pool_role" in settings or settings["method"] == "mix-diff" else {}
    output = folder / f"{seed}-{'-'.join(map(str, settings.values()))}"
    result = dpmix.fit(
        data=str(data), output=str(output), seed=seed, **RECIPE, **settings, **public
    )
    log = (result.folder / "diagnostics" / "steps.jsonl").read_text().splitlines()
    seconds = [json.loads(line)["seconds"] for line in log]
    return result.evaluation.accuracy, statistics.median(seconds)


def main() -> None:
    """Run every method with every seed, seeds outermost, and print a table."""
    source, pool, labels, per_class, seeds = sys.argv[1:]
    public = {"pool": pool, "pool_labels": labels, "pool_unmapped": "leave-out"}
    found = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        data = subset(source, int(per_class), Path(folder))
        for seed in map(int, seeds.split(",")):
            for name, settings in METHODS.items():
                found[name].append(run(data, public, seed, Path(folder), **settings))
                print(f"seed {seed}, {name}: {found[name][-1]}", flush=True)
    print(f"{data.stem}, seeds {seeds}, {torch.get_num_threads()} threads")
    print("| method | test accuracy, mean ± std | seconds a step, median |\n|---|---|---|")
    for name, runs in found.items():
        accuracy, seconds = zip(*runs, strict=True)
        mean, spread = 100 * statistics.mean(accuracy), 100 * statistics.stdev(accuracy)
        print(f"| {name} | {mean:.2f} ± {spread:.2f} % | {statistics.median(seconds):.2f} |")


if __name__ == "__main__":
    main()
