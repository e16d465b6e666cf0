"""Heads on frozen features, and the methods with the best of them: accuracy and seconds.

    python benchmarks/heads.py data=/path/to/cifar10.npz backbone=scatternet [pool=FOLDER_OR_NPZ]

Every head's rate is chosen at each epsilon on images that are neither trained on nor tested on:
`tune=...npz` holds the same training images, and those as its test split. Results go to
heads-<backbone>.csv beside the working folder's caches, a line a run, so that a stopped
comparison goes on.
"""

import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import dpmix

EPSILONS = (1, 3, 8)
SEEDS = (0, 1, 2)
DEFAULT = "full batch, momentum"
HEADS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    f"{DEFAULT}, features of length 1": {"feature_length": 1},
    f"{DEFAULT}, features as they are": {"feature_norm": "none"},
    f"{DEFAULT}, whitened": {"feature_norm": "whiten"},
    "SGD, batch 1,000, 10 epochs": {
        "expected_batch_size": 1000, "epochs": 10, "momentum": 0, "feature_length": 1,
    },
    "full batch, DP-AdamBC": {"optimizer": "DPAdamBC", "feature_length": 1},
}  # fmt: skip
RATES: dict[str, tuple[float | None, ...]] = {
    DEFAULT: (None,),  # the rule of docs/defaults.md
    f"{DEFAULT}, features of length 1": (4, 16, 64),
    f"{DEFAULT}, features as they are": (0.1, 0.5, 2),
    f"{DEFAULT}, whitened": (None,),
    "SGD, batch 1,000, 10 epochs": (1, 4, 16, 64),
    "full batch, DP-AdamBC": (0.03, 0.1, 0.3),
}
METHODS: dict[str, dict[str, Any]] = {
    "none": {"method": "none"},
    "self-aug, 8 views": {"method": "self-aug", "k_base": 8, "cache_views": 8},
    "mix-self, 4 + 4 views": {"method": "mix-self", "k_base": 4, "k_self": 4, "cache_views": 8},
}


class Comparison:
    """The runs of one backbone; what was run before is read back from its file."""

    def __init__(self, fixed: dict[str, Any], pool: str | None) -> None:
        self.fixed, self.pool = fixed, pool
        self.path = Path(f"heads-{fixed['backbone']}.csv")
        self.seen: dict[tuple[str, ...], tuple[float, float]] = {}
        if self.path.exists():
            with self.path.open() as file:
                for *key, accuracy, seconds in csv.reader(file):
                    self.seen[tuple(key)] = float(accuracy), float(seconds)

    def run(self, head: str, method: str, data: str, **settings: Any) -> tuple[float, float]:
        """Accuracy and seconds, of training and what comes before it, without the embedding."""
        key = (head, method, Path(data).name, *(f"{k}={v}" for k, v in sorted(settings.items())))
        if key not in self.seen:
            chosen = self.fixed | METHODS[method] | HEADS[head] | settings
            if chosen.get("feature_norm") == "whiten":
                chosen |= {"pool": self.pool, "pool_unmapped": "unlabelled"}
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                result = dpmix.fit(data=data, output=folder, eval_every=10**6, **chosen)
            self.seen[key] = result.evaluation.accuracy, time.perf_counter() - start
            with self.path.open("a", newline="") as file:
                csv.writer(file).writerow([*key, *self.seen[key]])
        return self.seen[key]


def row(compared: Comparison, head: str, method: str, data: str, tune: str) -> str:
    """One line of the table: mean and standard deviation of the test accuracy at each epsilon."""
    cells, taken = [], []
    for epsilon in EPSILONS:
        rates = RATES[head]
        by_rate = {
            rate: compared.run(head, "none", tune, epsilon=epsilon, learning_rate=rate, seed=9)[0]
            for rate in (rates if len(rates) > 1 else ())
        }
        rate = max(by_rate, key=lambda one: by_rate[one]) if by_rate else rates[0]
        runs = [
            compared.run(head, method, data, epsilon=epsilon, learning_rate=rate, seed=seed)
            for seed in SEEDS
        ]
        accuracy = [100 * one for one, _ in runs]
        cells.append(f"{statistics.mean(accuracy):.2f} ± {statistics.stdev(accuracy):.2f}")
        taken += [seconds for _, seconds in runs]
    return f"| {head} | {method} | {' | '.join(cells)} | {statistics.median(taken):.0f} |"


def main(data: str, tune: str, backbone: str, pool: str | None = None, **fixed: str) -> None:
    """Print the table."""
    compared = Comparison({"backbone": backbone, "cache_dir": "features", **fixed}, pool)
    print(f"| head | method | {' | '.join(f'epsilon {e}' for e in EPSILONS)} | s a run |")
    print("|---|---|" + "---|" * (len(EPSILONS) + 1))
    for head in HEADS:
        if pool or HEADS[head].get("feature_norm") != "whiten":
            print(row(compared, head, "none", data, tune), flush=True)
    for method in METHODS:
        if method != "none":
            print(row(compared, DEFAULT, method, data, tune), flush=True)


if __name__ == "__main__":
    main(**dict(part.split("=", 1) for part in sys.argv[1:]))
