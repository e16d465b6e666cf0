"""Seconds a step on M processes, on paper: from a rate, a network and the law of Poisson draws.

    step = (examples of the busiest process) * K / rate + noise + travel
    travel = 12 P / bandwidth + 2 log2(M) latency

P numbers travel as float64 to rank 0 and as float32 back. The busiest of M processes that draw
Binomial(N / M, q) examples each sets the pace; its expectation is computed, not simulated. Noise is
drawn by rank 0 alone.

    python benchmarks/scaling_model.py --rate 20000 --noise 0.05
"""

import argparse
import math

import numpy as np
from scipy import stats


def busiest(n: float, q: float, processes: int) -> float:
    """Expected number of examples of the process that drew most."""
    own = n / processes
    spread = 12 * math.sqrt(own * q) + 30
    counts = np.arange(max(0, int(own * q - spread)), int(own * q + spread))
    below = stats.binom(int(own), q).cdf(counts) ** processes
    return float(counts[0] + (1 - below).sum())


def seconds(args: argparse.Namespace, n: float, batch: float, processes: int) -> dict[str, float]:
    """The parts of a step."""
    travel = 0.0
    if processes > 1:
        travel = 12 * args.parameters / args.bandwidth + 2 * math.log2(processes) * args.latency
    return {
        "views": busiest(n, batch / n, processes) * args.views / args.rate,
        "ideal": batch / processes * args.views / args.rate,
        "noise": args.noise,
        "travel": travel,
    }


def main() -> None:
    """Print strong and weak scaling."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, required=True, help="views a second, one process")
    parser.add_argument("--noise", type=float, required=True, help="seconds to draw and add it")
    parser.add_argument("--parameters", type=float, default=2_753_818, help="P; WRN-16-4's")
    parser.add_argument("--views", type=float, default=34, help="K")
    parser.add_argument("--examples", type=float, default=50_000, help="N of strong scaling")
    parser.add_argument("--batch", type=float, default=4096, help="expected, of strong scaling")
    parser.add_argument("--bandwidth", type=float, default=25e9, help="bytes a second")
    parser.add_argument("--latency", type=float, default=20e-6, help="seconds a message")
    args = parser.parse_args()
    one = seconds(args, args.examples, args.batch, 1)
    alone = one["views"] + one["noise"]
    print("| processes | strong: s a step | of it views | speed-up | weak: s a step | efficiency |")
    print("|---|---|---|---|---|---|")
    for processes in (1, 2, 8, 64, 256, 1024):
        strong = seconds(args, max(args.examples, processes), args.batch, processes)
        weak = seconds(args, args.examples * processes, args.batch * processes, processes)
        taken, grown = (part["views"] + part["noise"] + part["travel"] for part in (strong, weak))
        print(f"| {processes} | {taken:.3f} | {strong['views'] / taken:.0%} | "
              f"{alone / taken:.1f} | {grown:.3f} | {alone / grown:.0%} |")  # fmt: skip


if __name__ == "__main__":
    main()
