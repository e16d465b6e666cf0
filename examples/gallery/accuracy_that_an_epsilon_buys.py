"""What an epsilon buys: the same small network trained at several, class by class.

    python examples/gallery/accuracy_that_an_epsilon_buys.py --output accuracy.png

One seeded run each, on the built-in digits; a few minutes on a laptop.
"""

import argparse
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure

import dpmix

RUNS = {"epsilon 1": (1.0, "#D55E00"), "epsilon 8": (8.0, "#0072B2"),
        "no privacy": (float("inf"), "#999999")}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", default="accuracy_that_an_epsilon_buys.png")
    settings = parser.parse_args()

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    for place, (name, (epsilon, colour)) in enumerate(RUNS.items()):
        with TemporaryDirectory() as folder:
            run = dpmix.fit(
                data="mnist5k", model="cnn-small", method="mix-self", k_base=2, k_self=2,
                epsilon=epsilon, expected_batch_size=400, steps=settings.steps, seed=0,
                output=folder, overwrite=True,
            )  # fmt: skip
        measured = run.evaluation
        classes = list(measured.class_accuracy)
        left.bar(place, 100 * measured.accuracy, color=colour, width=0.6)
        left.text(
            place,
            100 * measured.accuracy,
            f"{100 * measured.accuracy:.1f}",
            ha="center",
            va="bottom",
        )
        shift = np.arange(len(classes)) + 0.27 * (place - 1)
        heights = [100 * measured.class_accuracy[one] for one in classes]
        right.bar(shift, heights, width=0.26, color=colour, label=name)
    left.set_xticks(range(len(RUNS)), list(RUNS))
    left.set(ylabel="test accuracy (%)", ylim=(0, 105))
    right.set_xticks(range(len(classes)), classes)
    right.set(xlabel="class", ylim=(0, 105))
    right.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(settings.output, dpi=130)


if __name__ == "__main__":
    main()
