"""The tables of docs/results/ are what the commands above them print."""

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = "\n".join(page.read_text() for page in sorted((ROOT / "docs/results").glob("*.md")))
COMMANDS = re.findall(r"^    dpmix (table docs/results/\S+.*)$", PAGE, flags=re.MULTILINE)


pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_is_what_its_command_prints(dpmix, monkeypatch, command):
    monkeypatch.chdir(ROOT)
    status, out, _ = dpmix(*shlex.split(command, comments=True))
    rows = [line for line in out.splitlines() if "±" in line and line.startswith("|")]
    assert status == 0 and rows
    plain = PAGE.replace("**", "")
    for row in rows:
        # A row may have a longer name in the page.
        assert row.split("|", 2)[2] in plain, row


def test_every_file_of_results_is_named_in_the_page():
    for path in (ROOT / "docs/results").glob("*.csv"):
        of = path.stem.removesuffix("-tuning")
        assert f"results/{of}." in PAGE, path
