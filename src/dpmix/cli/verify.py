"""`dpmix verify`."""

from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import stdout
from dpmix.reporting.rounding import shown_epsilon
from dpmix.reporting.summary import two_columns
from dpmix.verify import verify as check


def verify(run: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Check a run's files against its privacy statement, and its epsilon by a second accountant.

    Exit status 0: all of it holds. 2: something does not, which is named.
    """
    found = check(run)
    said = found.statement
    low, _, high = found.prv
    stdout().print(
        two_columns(
            [
                ("statement", "as it was written; weights, settings and card are those it names"),
                ("claimed", f"epsilon {shown_epsilon(float(said.epsilon))}, delta {said.delta}"),
                ("from", f"sigma {said.noise_multiplier:.6g}, q {said.sampling_rate:.6g}, "
                 f"{said.steps} steps, {len(said.spent_before)} release(s) before"),
                ("PLD, again", "the same"),
                ("PRV accountant", f"epsilon between {low:.4g} and {high:.4g}"),
                ("verdict", _verdict(said.seeded)),
            ]
        )
    )  # fmt: skip


def _verdict(seeded: bool) -> str:
    if seeded:
        return "holds, but NOT against whoever knows the run's seed, which its settings name"
    return "holds, if the training did what the statement says"
