"""`dpmix report`."""

from pathlib import Path
from typing import Annotated

import typer

from dpmix.cli.console import stdout
from dpmix.report import write_report
from dpmix.reporting.page.plain_words import audit_verdict
from dpmix.reporting.summary import two_columns
from dpmix.training.run_folder import RunFolder


def report(run: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Write a run's page, report.html, again from the files of its folder.

    A run writes it by itself; this adds the audit that was put beside it later:
    `dpmix audit --config RUN/config.yaml --report RUN/audit.json`. An audit of other settings is
    refused.
    """
    made = write_report(run)
    audited = audit_verdict(made.audit) if made.audit else "none: there is no audit.json"
    stdout().print(two_columns([("audit", audited), ("page", str(RunFolder(run).report))]))
