"""`dpmix verify`."""

from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import stdout
from dpmix.reporting.page.plain_words import claimed_epsilon
from dpmix.reporting.statement_model import Statement
from dpmix.reporting.summary import repeats_row, two_columns
from dpmix.verify import Verified
from dpmix.verify import verify as check


def verify(run: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Check a run's files against its privacy statement, and its epsilon by a second accountant.

    Reads privacy.json, config.yaml, model.safetensors, metrics.json, MODEL_CARD.md and report.html,
    and audit.json if it is there. Finds what was changed by mistake; a forger can seal a false
    statement, but none whose epsilon does not follow from its sigma, q and T. Exit status 0: all of
    it holds. 2: something does not, which is named.
    """
    found = check(run)
    said = found.statement
    low, _, high = found.prv
    stdout().print(
        two_columns(
            [
                ("statement", f"as it was written; {_fit(found)}"),
                ("claimed", f"epsilon {claimed_epsilon(said)}, delta {said.delta}"),
                *_repeats(said),
                ("from", f"sigma {said.noise_multiplier:.6g}, q {said.sampling_rate:.6g}, "
                 f"{said.planned_steps} planned steps, of which {said.steps} were made, and "
                 f"{len(said.spent_before)} earlier release(s) of the data"),
                (f"{said.accountant.name} accountant", "gives the same again"),
                ("PRV accountant", f"epsilon between {low:.4g} and {high:.4g}: the claim fits"
                 if said.expected_runs is None
                 else f"a single run costs no more: between {low:.4g} and {high:.4g}"),
                *_later(found),
                *_audit(run, found),
                ("verdict", _verdict(said.seeded)),
            ]
        )
    )  # fmt: skip


def _fit(found: Verified) -> str:
    if found.word_for_word:
        return "weights, settings, metrics, card, page fit it"
    return (
        "weights and settings fit it. Numbers of metrics, card and page were NOT compared: dpmix "
        f"{found.statement.versions.get('dpmix')} wrote them, with other libraries than are here"
    )


def _repeats(said: Statement) -> list[tuple[str, str]]:
    if said.repeats is None:
        return []
    return [repeats_row(said.repeats.most, float(said.repeats.epsilon))]


def _later(found: Verified) -> list[tuple[str, str]]:
    """Checkpoints of a stopped run can be of later steps than its model."""
    said = found.statement
    if found.checkpoint <= said.steps:
        return []
    if found.checkpoint <= said.planned_steps:
        return [("checkpoints", f"of step {found.checkpoint}: covered by the epsilon of all "
                 "planned steps alone")]  # fmt: skip
    return [("checkpoints", f"NOT covered by this epsilon: of step {found.checkpoint}, more than "
             "were planned; keep them to yourself")]  # fmt: skip


def _audit(run: Path, found: Verified) -> list[tuple[str, str]]:
    if found.audit_shown is None:
        return []
    if found.audit_shown:
        return [("audit", "did not refute the claim, and is on the page")]
    return [("audit", f"did not refute the claim; not on the page yet: dpmix report {run}")]


def _verdict(seeded: bool) -> str:
    if seeded:
        return "holds, but NOT against whoever knows the run's seed, which its settings name"
    return "holds, if the training did what the statement says"
