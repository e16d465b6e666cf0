"""`dpmix verify`, `dpmix report` and `dpmix compare`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from dpmix.audit.audit import audited_facts
from dpmix.cli.console import stdout
from dpmix.errors import DpmixError, to_install
from dpmix.files import write_text
from dpmix.reports.compare import Comparison
from dpmix.reports.compare import compare as compare_runs
from dpmix.reports.facts import audit_verdict, claimed_epsilon, percent, score_text
from dpmix.reports.measured import baseline
from dpmix.reports.page import compare_page, report_page
from dpmix.reports.statement import NOT_PRIVATE, shown_epsilon
from dpmix.reports.summary import Row, repeats_row, two_columns
from dpmix.reports.verify import Verified
from dpmix.reports.verify import verify as check
from dpmix.runs.checkpoint import newest_step
from dpmix.runs.folder import RunFolder
from dpmix.runs.settings import places


def verify(
    run: Annotated[Path, typer.Argument(help="a run's folder, or its model.safetensors alone")],
) -> None:
    """Check a trained model against its privacy statement, and its epsilon by other accountants.

    Finds what was changed by mistake; a forger can seal a false statement, but none whose epsilon
    does not follow from its sigma, q and T. Exit status 0: everything holds. 2: something does
    not, which is named.
    """
    found, folder = check(run), RunFolder(run)
    stated = found.statement
    rows = [
        ("statement", "as it was written, and about these weights and settings"),
        ("claimed", f"epsilon {claimed_epsilon(stated)}, delta {stated.delta}"),
    ]
    if stated.repeats is not None:
        rows.append(repeats_row(stated.repeats.most, float(stated.repeats.epsilon)))
    rows += [
        ("from", f"sigma {stated.noise_multiplier:.6g}, q {stated.sampling_rate:.6g}, "
         f"{stated.planned_steps} planned steps (the model is that of step {stated.steps}), and "
         f"{len(stated.spent_before)} earlier release(s) of the data"),
        (f"{stated.accountant} accountant", "gives the same again"),
        ("PRV accountant", _second_opinion(found)),
    ]  # fmt: skip
    if (step := newest_step(folder.checkpoints) or 0) > stated.steps:
        covered = "covered by the epsilon of all planned steps only, if they are of this run"
        if step > stated.planned_steps:
            covered = "NOT covered by this epsilon: more steps than were planned; do not share them"
        rows.append(("checkpoints", f"of step {step}: {covered}"))
    if folder.audit.exists():
        audited_facts(folder)  # refuses an audit of other settings
        rows.append(("audit", "did not refute the claim"))
    rows.append(("verdict", "holds, but NOT against anyone who knows the run's seed, which its "
                 "settings name" if stated.seeded else
                 "holds, if the training did what the statement says"))  # fmt: skip
    stdout().print(two_columns(rows))


def _second_opinion(found: Verified) -> str:
    if found.prv is None:
        return f"left out: prv-accountant is not installed ({to_install('verify')})"
    low, high = found.prv
    if found.statement.expected_runs is not None:
        return f"a single run costs no more: between {low:.4g} and {high:.4g}"
    return f"epsilon between {low:.4g} and {high:.4g}: the claim fits"


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
    if len({root.resolve() for root in runs}) < max(2, len(runs)):
        raise DpmixError("compare needs two or more run folders, each given once")
    names = [root.resolve().name for root in runs]
    facts = [audited_facts(RunFolder(root)) for root in runs]
    found = compare_runs(names, facts, places("path") | places("resume"))
    write_text(output, compare_page(found))
    console = stdout()
    console.print(_table(found))
    console.print(two_columns([*_notes(found), ("page", str(output))]))


def _table(found: Comparison) -> Table:
    measures = " or ".join(dict.fromkeys(run.metrics.measure for run in found.runs))
    table = Table("run", "method", "epsilon", measures, "worst class", "calibration error",
                  box=None, pad_edge=False)  # fmt: skip
    for column in table.columns:
        column.overflow = "fold"
    for name, run in zip(found.names, found.runs, strict=True):
        stated, measured = run.statement, run.metrics
        table.add_row(
            name,
            stated.method,
            claimed_epsilon(stated) if stated.private else NOT_PRIVATE,
            f"{'FAILED, diverged: ' if measured.diverged else ''}{score_text(measured)}"
            f"{'' if measured.accuracy is None else '; ' + ' '.join(baseline(measured, percent))}",
            f"{measured.worst_class.name}: {percent(measured.worst_class.score)}",
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
