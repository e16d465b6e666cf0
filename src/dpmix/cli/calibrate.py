"""`dpmix calibrate`."""

from dataclasses import replace
from math import inf
from typing import Annotated

import typer
from rich.table import Table

from dpmix.cli.console import stdout
from dpmix.privacy.plan import PrivacyPlan
from dpmix.reporting.rounding import shown_epsilon, shown_sigma


def calibrate(
    n: Annotated[int, typer.Option(help="N, the number of training examples")],
    expected_batch_size: Annotated[float, typer.Option(help="q*N, examples expected in a step")],
    steps: Annotated[int | None, typer.Option(help="T, training steps")] = None,
    epochs: Annotated[float | None, typer.Option(help="T as expected passes over the data")] = None,
    delta: Annotated[
        float | None, typer.Option(help="delta, well under 1/N; default min(1e-5, 1 / (10 N))")
    ] = None,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="target; repeat for more rows. Default: 1 2 4 8")
    ] = None,
    sigma: Annotated[
        list[float] | None, typer.Option(help="noise multiplier to account for; repeatable")
    ] = None,
) -> None:
    """Show the noise that an epsilon needs, or the epsilon that a noise gives; reads no data."""

    def plan(target: float) -> PrivacyPlan:
        return PrivacyPlan.calibrate(
            n=n,
            expected_batch_size=expected_batch_size,
            steps=steps,
            epochs=epochs,
            epsilon=target,
            delta=delta,
        )

    silent, console = plan(inf), stdout()
    table = Table(
        "sigma", "epsilon (PLD)", "epsilon (RDP)",
        caption=f"q {silent.sampling_rate:g}, {silent.steps} steps, delta {silent.delta:g}",
    )  # fmt: skip
    with console.status("some seconds a row"):
        plans = [plan(target) for target in epsilon or ([] if sigma else [1.0, 2.0, 4.0, 8.0])]
        plans += [replace(silent, noise_multiplier=s, max_grad_norm=1.0) for s in sigma or []]
        for row in sorted(plans, key=lambda plan: -plan.noise_multiplier):
            epsilons = (shown_epsilon(value, 4) for value in (row.epsilon, row.epsilon_rdp))
            table.add_row(shown_sigma(row.noise_multiplier), *epsilons)
    console.print(table)
