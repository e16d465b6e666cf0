"""What an epsilon costs in noise, and how epsilon grows with the steps.

    python examples/gallery/noise_that_an_epsilon_costs.py --output noise.png

No data are read: a plan is arithmetic on N, the batch size, the steps, epsilon and delta.
"""

import argparse

from matplotlib.figure import Figure

import dpmix

N, DELTA, STEPS = 10_000, 1e-5, 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", default="noise_that_an_epsilon_costs.png")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1, 2, 4, 8])
    settings = parser.parse_args()
    epsilons = settings.epsilons

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for batch, colour in ((100, "#0072B2"), (1_000, "#D55E00"), (10_000, "#009E73")):
        plans = [
            dpmix.PrivacyPlan.calibrate(
                n=N, expected_batch_size=batch, steps=STEPS, epsilon=epsilon, delta=DELTA
            )
            for epsilon in epsilons
        ]
        # What training feels: the noise in the AVERAGE gradient.
        noise = [plan.noise_multiplier / batch for plan in plans]
        left.loglog(epsilons, noise, marker="o", color=colour, label=f"batches of {batch:,}")
    left.set(xlabel="epsilon", ylabel="noise in the mean gradient, in units of C")
    left.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    left.minorticks_off()
    left.set_title(f"{STEPS} steps on {N:,} images", fontsize=10)
    left.legend(frameon=False)

    plan = dpmix.PrivacyPlan.calibrate(
        n=N, expected_batch_size=1_000, steps=STEPS, epsilon=3, delta=DELTA
    )
    steps = [1, *range(10, STEPS + 1, 10)]
    right.plot(steps, [plan.epsilon_after(step) for step in steps], color="#0072B2",
               label="privacy loss distributions")  # fmt: skip
    right.plot(steps, [plan.epsilon_rdp_after(step) for step in steps], color="#D55E00", ls="--",
               label="Renyi accounting")  # fmt: skip
    right.set(xlabel="steps", ylabel="epsilon", ylim=(0, None))
    right.set_title("the same noise, by two accountants", fontsize=10)
    right.legend(frameon=False)
    figure.savefig(settings.output, dpi=130)


if __name__ == "__main__":
    main()
