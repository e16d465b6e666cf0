"""`dpmix verify`, `dpmix report` and `dpmix compare`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpmix.audit.audit import audited_facts
from dpmix.cli.progress import stdout
from dpmix.errors import DpmixError
from dpmix.files import write_text
from dpmix.reports.compare import Comparison
from dpmix.reports.compare import compare as compare_runs
from dpmix.reports.facts import audit_verdict, claimed_epsilon, percent
from dpmix.reports.page import compare_page, report_page
from dpmix.reports.statement import NOT_PRIVATE, Statement, shown_epsilon
from dpmix.reports.summary import repeats_row, two_columns
from dpmix.reports.verify import Verified
from dpmix.reports.verify import verify as check
from dpmix.runs.folder import RunFolder
from dpmix.runs.resume import FREE

Row = tuple[str, str]


def verify(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Check a run's files against its privacy statement, and its epsilon by a second accountant.

    Reads privacy.json, config.yaml, model.safetensors, metrics.json, MODEL_CARD.md and report.html,
    and audit.json if it exists. This finds accidental changes. A forger can seal a false statement,
    but not one whose epsilon does not follow from its sigma, q and T. Exit status 0: everything
    holds. 2: something does not, and is named.
    """
    found = check(run)
    told = found.statement
    low, _, high = found.prv
    rows = [
        ("statement", f"as it was written; {_fit(found)}"),
        ("claimed", f"epsilon {claimed_epsilon(told)}, delta {told.delta}"),
        *_repeats(told),
        ("from", f"sigma {told.noise_multiplier:.6g}, q {told.sampling_rate:.6g}, "
         f"{told.planned_steps} planned steps, {told.steps} of them taken, and "
         f"{len(told.spent_before)} earlier release(s) of the data"),
        (f"{told.accountant.name} accountant", "gives the same epsilon again"),
        ("PRV accountant", f"epsilon between {low:.4g} and {high:.4g}: the claim fits"
         if told.expected_runs is None
         else f"a single run costs no more: between {low:.4g} and {high:.4g}"),
        *_later(found),
        *_audit(run, found),
        ("verdict", "holds, but NOT against anyone who knows the seed, which the settings name"
         if told.seeded else "holds, if the training did what the statement says"),
    ]  # fmt: skip
    stdout().print(two_columns(rows))


def _fit(found: Verified) -> str:
    if found.word_for_word:
        return "weights, settings, metrics and card fit it"
    return (
        "weights and settings fit it. Numbers of metrics and card were NOT compared: dpmix "
        f"{found.statement.versions.get('dpmix')} wrote them, with other libraries than are here"
    )


def _repeats(told: Statement) -> list[Row]:
    if told.repeats is None:
        return []
    return [repeats_row(told.repeats.most, float(told.repeats.epsilon))]


def _later(found: Verified) -> list[Row]:
    """Checkpoints of a stopped run can be of later steps than its model."""
    told = found.statement
    if found.checkpoint <= told.steps:
        return []
    if found.checkpoint <= told.planned_steps:
        return [("checkpoints", f"of step {found.checkpoint}: covered only by the epsilon of all "
                 "planned steps")]  # fmt: skip
    return [("checkpoints", f"NOT covered by this epsilon: of step {found.checkpoint}, more than "
             "were planned; do not publish them")]  # fmt: skip


def _audit(run: Path, found: Verified) -> list[Row]:
    if found.audit_shown is None:
        return []
    if found.audit_shown:
        return [("audit", "did not refute the claim, and is on the page")]
    return [("audit", f"did not refute the claim; not on the page yet: dpmix report {run}")]


def report(run: Annotated[Path, typer.Argument(help="run folder")]) -> None:
    """Write a run's page, report.html, again from the files of its folder.

    Every run writes its page. Use this command to add an audit that was made later:
    `dpmix audit --config RUN/config.yaml --report RUN/audit.json`. An audit of other settings is
    refused.
    """
    folder = RunFolder(run)
    with folder.held():
        facts = audited_facts(folder)
        write_text(folder.report, report_page(facts))
    verdict = audit_verdict(facts.audit) if facts.audit else "none: there is no audit.json"
    stdout().print(two_columns([("audit", verdict), ("page", str(folder.report))]))


def compare(
    runs: Annotated[list[Path], typer.Argument(help="two or more run folders")],
    output: Annotated[Path, typer.Option(help="page to write")] = Path("compare.html"),
) -> None:
    """Show runs side by side, on a page and in a short table.

    The page shows guarantee, accuracy, calibration, every class, the settings that differ, and what
    all of the runs together cost in privacy.
    """
    if len(runs) < 2:
        raise DpmixError("only one run was given to compare; give two or more run folders")
    if len({root.resolve() for root in runs}) < len(runs):
        raise DpmixError("the same run was given twice to compare; give each folder once")
    names = [root.resolve().name for root in runs]
    found = compare_runs(names, [audited_facts(RunFolder(root)) for root in runs], FREE | _OF_A_RUN)
    write_text(output, compare_page(found))
    console = stdout()
    console.print(_table(found))
    console.print(two_columns([*_notes(found), ("page", str(output))]))


# What was spent is a list of paths; the noise of those releases is in the statement.
_OF_A_RUN = {"output", "overwrite", "spent"}


def _table(found: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("run", "method", "epsilon", "accuracy", "worst class", "calibration error"):
        table.add_column(title, overflow="fold")
    for name, run in zip(found.names, found.runs, strict=True):
        told, measured = run.statement, run.metrics
        table.add_row(
            name,
            told.method,
            claimed_epsilon(told) if told.private else NOT_PRIVATE,
            f"{'FAILED, diverged: ' if measured.diverged else ''}{percent(measured.accuracy)}",
            f"{measured.worst_class.name}: {percent(measured.worst_class.accuracy)}",
            percent(measured.calibration_error),
        )
    return table


def _notes(found: Comparison) -> list[Row]:
    rows = []
    if found.data:
        differ = ", ".join(name for name, _ in found.data)
        rows.append(("data", f"THEY DIFFER ({differ}): do not compare the accuracies"))
    if found.together:
        epsilon, delta = found.together
        spent = f"epsilon {shown_epsilon(epsilon)}, delta {delta}"
        rows.append(
            ("all together", f"{spent}: for anyone who sees all these models or picks the best")
        )
        if found.repeated:
            rows.append(repeats_row(*found.repeated))
    else:
        rows.append(("all together", f"no epsilon: {found.why_not}"))
    names = ", ".join(name for name, _ in found.settings) or "none"
    return [*rows, ("settings that differ", names)]
