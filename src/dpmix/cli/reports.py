"""`dpmix report`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpmix.cli.progress import stdout
from dpmix.files import write_text
from dpmix.reports.compare import Comparison, compare_page
from dpmix.reports.compare import compare as side_by_side
from dpmix.reports.page import audit_verdict, claimed_epsilon, write_report
from dpmix.reports.statement import NOT_PRIVATE, Statement, shown_epsilon
from dpmix.reports.summary import repeats_row, two_columns
from dpmix.reports.verify import Verified
from dpmix.reports.verify import verify as check
from dpmix.runs.folder import RunFolder

# `dpmix verify`.


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


# `dpmix compare`.


def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of two or more runs")],
    output: Annotated[Path, typer.Option(help="the page to write")] = Path("compare.html"),
) -> None:
    """Show runs side by side, on a page and in a short table.

    The page shows guarantee, accuracy, calibration, every class, the settings that differ, and what
    all of the runs together cost in privacy.
    """
    found = side_by_side(runs)
    write_text(
        output,
        compare_page(
            found.names, found.runs, settings=found.settings, data=found.data,
            together=found.together, why_not=found.why_not, repeated=found.repeated,
        ),
    )  # fmt: skip
    console = stdout()
    console.print(_table(found))
    console.print(two_columns([*_notes(found), ("page", str(output))]))


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("run", "method", "epsilon", "accuracy", "worst class", "calibration error"):
        table.add_column(title, overflow="fold")
    for name, run in zip(found.names, found.runs, strict=True):
        said, measured = run.statement, run.metrics
        table.add_row(
            name,
            said.method,
            claimed_epsilon(said) if said.private else NOT_PRIVATE,
            f"{'FAILED, diverged: ' if measured.diverged else ''}{measured.accuracy:.2%}",
            f"{measured.worst_class.name}: {measured.worst_class.accuracy:.2%}",
            f"{measured.calibration_error:.2%}",
        )
    return table


def _notes(found: Comparison) -> list[tuple[str, str]]:
    rows = []
    if found.data:
        differ = ", ".join(name for name, _ in found.data)
        rows.append(("data", f"THEY DIFFER ({differ}): accuracies are not to be compared"))
    if found.together:
        epsilon, delta = found.together
        spent = f"epsilon {shown_epsilon(epsilon)}, delta {delta}"
        rows.append(("all together", f"{spent}: if all of them, or only the best, are published"))
        if found.repeated:
            rows.append(repeats_row(*found.repeated))
    else:
        rows.append(("all together", f"no epsilon: {found.why_not}"))
    names = ", ".join(name for name, _ in found.settings) or "none"
    return [*rows, ("settings that differ", names)]


def report(run: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Write a run's page, report.html, again from the files of its folder.

    A run writes it by itself; this adds the audit that was put beside it later:
    `dpmix audit --config RUN/config.yaml --report RUN/audit.json`. An audit of other settings is
    refused.
    """
    made = write_report(run)
    audited = audit_verdict(made.audit) if made.audit else "none: there is no audit.json"
    stdout().print(two_columns([("audit", audited), ("page", str(RunFolder(run).report))]))
