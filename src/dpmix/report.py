"""A run's page, made again from the files of its folder: so it gains an audit of a later day."""

from dataclasses import replace
from pathlib import Path

from dpmix.atomic_files import write_text
from dpmix.audit.of_run import audit_of
from dpmix.reporting.page.report_page import report_page
from dpmix.reporting.run_facts import RunFacts, read_facts
from dpmix.training.run_folder import RunFolder


def audited_facts(folder: RunFolder) -> RunFacts:
    """What a run's public files say, with the audit beside them if there is one.

    Raises:
        DpmixError: as `read_facts` and `audit_of` raise.
    """
    facts = read_facts(folder)
    return replace(facts, audit=audit_of(folder, facts.config, facts.statement))


def write_report(root: Path) -> RunFacts:
    """Write the page of the run at `root` anew, and return what it was made of.

    Raises:
        DpmixError: as `audited_facts` raises, a run is writing to the folder, or it can't be
            written to.
    """
    folder = RunFolder(root)
    with folder.held():
        facts = audited_facts(folder)
        write_text(folder.report, report_page(facts))
    return facts
