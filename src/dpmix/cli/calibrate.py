"""`dpmix calibrate`; it loads no torch, which alone would take longer than the answer."""

from dataclasses import replace
from math import inf
from typing import Annotated

import typer
from rich.table import Table

from dpmix.cli.console import stdout
from dpmix.privacy.plan import PrivacyPlan
from dpmix.privacy.repeats import epsilon_of_copies
from dpmix.reports.statement import Membership, shown_epsilon, shown_share, shown_sigma


def calibrate(
    n: Annotated[int, typer.Option(help="number of training images, or persons, N")],
    expected_batch_size: Annotated[float, typer.Option(help="examples in a step on average, q*N")],
    steps: Annotated[int | None, typer.Option(help="number of training steps, T")] = None,
    epochs: Annotated[float | None, typer.Option(help="T as expected passes over the data")] = None,
    delta: Annotated[float | None, typer.Option(help="delta, by default well below 1/N")] = None,
    epsilon: Annotated[
        list[float] | None, typer.Option(help="target epsilon; repeatable; default: 1 2 4 8")
    ] = None,
    sigma: Annotated[
        list[float] | None, typer.Option(help="noise multiplier to account for; repeatable")
    ] = None,
    images_per_person: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            help="also show epsilon of a person with this many of N images, at the "
            "same delta; repeatable",
        ),
    ] = None,
) -> None:
    """Show the noise that an epsilon needs, or the epsilon that a noise gives; reads no data."""

    def plan(target: float) -> PrivacyPlan:
        return PrivacyPlan.calibrate(
            n=n, expected_batch_size=expected_batch_size, steps=steps, epochs=epochs,
            epsilon=target, delta=delta,
        )  # fmt: skip

    silent, console = plan(inf), stdout()
    several = sorted({*(images_per_person or ())})
    table = Table(
        "sigma", "epsilon (PLD)", "epsilon (RDP)", "best guess", "found at 1 %", "at 0.1 %", "mu",
        *(f"epsilon of a person with {m}" for m in several),
        caption=f"q {silent.sampling_rate:g}, {silent.steps} steps, delta {silent.delta:g}; best "
        "guess: right guesses at most, at even odds, whether one example took part; found: the "
        "most that any test of that finds, at 1 % and 0.1 % false positives; mu: of the nearest "
        "Gaussian mechanism, '-' where none is near",
    )  # fmt: skip
    with console.status("a few seconds for each row"):
        plans = [plan(target) for target in epsilon or ([] if sigma else [1.0, 2.0, 4.0, 8.0])]
        plans += [replace(silent, noise_multiplier=s, max_grad_norm=1.0) for s in sigma or []]
        for row in sorted(plans, key=lambda plan: -plan.noise_multiplier):
            of_persons = (epsilon_of_copies(row, m, row.steps) for m in several)
            pld, rdp, *others = (
                shown_epsilon(value, 4) for value in (row.epsilon, row.epsilon_rdp, *of_persons)
            )
            table.add_row(shown_sigma(row.noise_multiplier), pld, rdp, *_found(row), *others)
    console.print(table)


def _found(plan: PrivacyPlan) -> tuple[str, str, str, str]:
    """The best guess of membership, what tests find at 1 % and 0.1 % false positives, and mu."""
    found = Membership.of(plan)
    guess, often, seldom = (
        shown_share(one)
        for one in (found.best_guess, found.found_at_1_percent, found.found_at_0_1_percent)
    )
    return guess, often, seldom, "-" if found.mu is None else shown_epsilon(found.mu)
